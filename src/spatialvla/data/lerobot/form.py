"""What is read of a LeRobot dataset's features as what: from frames, however they are stored, to an episode."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spatialvla.data.arm_state import check_gripper_feature, state_names, state_of
from spatialvla.data.episodes import SeenThroughView, filled, moving
from spatialvla.data.hand_motions import Numbers
from spatialvla.data.lerobot.cameras import find_cameras
from spatialvla.data.lerobot.feature_mapping import STATE, FeatureMapping
from spatialvla.data.lerobot.features import BOOKKEEPING, Feature
from spatialvla.data.lerobot.reader import StoredEpisode
from spatialvla.data.lerobot.views import CameraFeatures, LeRobotView
from spatialvla.data.mapping_lines import StateMapping
from spatialvla.errors import CheckpointError, InputError


@dataclass(frozen=True)
class LeRobotEpisode(SeenThroughView):
    """T steps of one dataset, see `spatialvla.data.episodes.Episode`. view: of the first camera."""

    instructions: tuple[str, ...]
    actions: np.ndarray
    starts: np.ndarray
    view: LeRobotView
    other_views: Mapping[str, LeRobotView]
    state_mapping: StateMapping | None

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def instruction(self) -> str:
        """Of the first step."""
        return self.instructions[0] if self.instructions else ""

    def instruction_at(self, step: int) -> str:
        """Of one step."""
        return self.instructions[step]

    @cached_property
    def state(self) -> np.ndarray | None:
        """(T, S). Raises CheckpointError where it is not finite."""
        if self.state_mapping is None:
            return None
        try:
            return state_of(self.state_mapping, self.columns)
        except InputError as error:
            raise CheckpointError(f"{self.view.where}: {error}") from None

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """(T, …) the numbers of each step by feature name."""
        return {name: values[self.view.rows] for name, values in self.view.stored.columns.items()}


@dataclass(frozen=True)
class EpisodeForm:
    """A mapping, held against the features that there are.

    camera: the one looked through; others: further ones by name. state: where the arm's own numbers are, if anywhere;
    state_names: what they are. left_out: why each camera is that nobody named and that cannot be read.
    """

    mapping: FeatureMapping
    camera: CameraFeatures
    others: Mapping[str, CameraFeatures]
    state: StateMapping | None
    state_names: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        mapping: FeatureMapping,
        features: Mapping[str, Feature],
        cameras: Collection[str] | None = None,
        acted: bool = True,
    ) -> EpisodeForm:
        """cameras: names of those beside the first that are wanted; all unless given. acted: whether the features
        of actions are there, too.

        Raises InputError where something is left open, naming the line of a mapping that helps.
        """
        known = _numbers(features)
        (camera, *others), left_out = find_cameras(mapping, features, cameras)
        if mapping.gripper_pose is not None:
            check_gripper_feature(mapping.gripper_pose, known)
        state = _state(mapping, known)
        names = () if state is None else state_names(state, known)
        if acted:
            mapping.motion.check(known)
        return cls(mapping, camera, {one.name: one for one in others}, state, names, tuple(left_out))

    def episode(self, stored: StoredEpisode, where: str) -> LeRobotEpisode:
        """where: the episode, as sentences call it.

        Raises CheckpointError, naming it, for damaged data.
        """
        try:
            actions = self.mapping.motion.actions(stored.columns)
        except InputError as error:
            raise CheckpointError(f"{where}: {error}") from None
        if not np.isfinite(actions).all():
            raise CheckpointError(f"{where} has actions that are not finite; leave it out.")
        return self.acted(stored, actions, self.mapping.motion.first_step, where)

    def acted(self, stored: StoredEpisode, actions: np.ndarray, first: int, where: str) -> LeRobotEpisode:
        """The same with actions (T, 7) that are given. first: how many frames stand before the first one's."""
        kept = moving(actions) if self.mapping.drop_no_ops else np.ones(len(actions), dtype=bool)
        fixed = self.mapping.instruction
        instructions = filled(stored.instructions if fixed is None else [fixed] * len(stored))
        rows = slice(first, first + len(actions))
        kept &= self.camera.was_there(stored.columns)[rows]
        view = LeRobotView(self.camera, stored, rows, where)
        _ = view.camera, view.extrinsics  # so that what they cannot be is said here
        return LeRobotEpisode(
            instructions=instructions[first:],
            actions=actions,
            starts=np.flatnonzero(kept),
            view=view,
            other_views={
                name: LeRobotView(camera, stored, rows, where)
                for name, camera in self.others.items()
                if camera.was_there(stored.columns)[rows][kept].all()
            },
            state_mapping=self.state,
        )


def _numbers(features: Mapping[str, Feature]) -> dict[str, Numbers]:
    """The features that a mapping's action may name."""
    bookkeeping = {feature.name for feature in BOOKKEEPING}
    return {
        name: Numbers(int(np.prod(feature.shape)), tuple(map(str, feature.names or ())))
        for name, feature in features.items()
        if feature.is_number and name not in bookkeeping
    }


def _state(mapping: FeatureMapping, known: Mapping[str, Numbers]) -> StateMapping | None:
    """Where the arm's own numbers are, if anywhere."""
    if mapping.state is None:
        return StateMapping((STATE,)) if STATE in known else None
    if isinstance(mapping.state, StateMapping):
        return mapping.state
    return None if mapping.state == "none" else StateMapping((mapping.state,))
