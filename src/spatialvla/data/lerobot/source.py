"""A LeRobot dataset as a source of episodes in the form that training knows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from spatialvla.data.arm_state import check_gripper_feature, state_names, state_of
from spatialvla.data.episodes import SeenThroughView, filled, moving
from spatialvla.data.hand_motions import Numbers
from spatialvla.data.lerobot.cameras import find_cameras
from spatialvla.data.lerobot.feature_mapping import STATE, FeatureMapping
from spatialvla.data.lerobot.features import BOOKKEEPING, Feature
from spatialvla.data.lerobot.location import find_dataset
from spatialvla.data.lerobot.metadata import read_info
from spatialvla.data.lerobot.reader import VERSIONS, LeRobotDataset
from spatialvla.data.lerobot.units import stored_units
from spatialvla.data.lerobot.views import LeRobotView
from spatialvla.data.mapping_lines import StateMapping
from spatialvla.data.motion_units import motion_units
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


class LeRobotSource:
    """A dataset of format v2 or v3: its folder, its name in LeRobot's cache, or a Hub id.

    Without a mapping: the only camera, `action` of 7 numbers as they are, `observation.state`, and intrinsics and
    extrinsics where features of the usual names hold them.
    key: the name of its statistics in a checkpoint. units: of the actions. camera: the one looked through; others:
    further ones by name. state_names: what the numbers of the state are.
    """

    def __init__(
        self,
        root: str | Path,
        mapping: FeatureMapping | str | Path | None = None,
        cache: Path | None = None,
        cameras: Collection[str] | None = None,
    ) -> None:
        """mapping: one, or its YAML file. cache: folder for what is downloaded from the Hub. cameras: names of
        those beside the first that are wanted; all unless given. Files of the others need not be there.

        Raises InputError where the dataset leaves something open, naming the line of a mapping that helps.
        """
        given = (
            mapping
            if isinstance(mapping, FeatureMapping) or mapping is None
            else FeatureMapping.load(mapping)
        )
        self.mapping = given or FeatureMapping()
        self.cameras = cameras
        self.root = find_dataset(root, cache, self._unneeded)
        self.dataset = LeRobotDataset(self.root, complete=False)
        self.key = self.mapping.key or (
            self.root.resolve().name if Path(root).expanduser().is_dir() else str(root)
        )
        known = _numbers(self.dataset.features)
        self._left_out: list[str] = []
        try:
            (self.camera, *others), self._left_out = find_cameras(
                self.mapping, self.dataset.features, cameras
            )
            self.others = {camera.name: camera for camera in others}
            if self.mapping.gripper_pose is not None:
                check_gripper_feature(self.mapping.gripper_pose, known)
            self.state = _state(self.mapping, known)
            self.state_names = () if self.state is None else state_names(self.state, known)
            self.mapping.motion.check(known)
            stored = stored_units(self.root)
            self.units = motion_units(
                self.mapping.motion, self.mapping.units, stored, float(self.dataset.fps)
            )
        except InputError as error:
            raise InputError(" ".join((f"{self.root}: {error}", *self.doubts))) from None
        self.dataset.check_videos(name for camera in (self.camera, *others) for name in camera.videos)

    def _unneeded(self, folder: Path) -> list[str]:
        """The features whose videos nobody wants, by the description in a folder. Raises InputError as `__init__`."""
        if self.cameras is None:
            return []
        features = read_info(folder, VERSIONS).features
        found, _ = find_cameras(self.mapping, features, self.cameras)
        needed = {name for camera in found for name in camera.videos}
        return [name for name, feature in features.items() if feature.is_video and name not in needed]

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self.root, self.mapping, self.key, self.cameras)

    @property
    def left_out(self) -> tuple[str, ...]:
        """None: each episode that is listed is one."""
        return ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """Features that are listed and not there, and cameras that cannot be read and that nobody named."""
        absent = ", ".join(self.dataset.absent)
        missing = [f"Its info.json lists {absent}, which the files do not hold."] if absent else []
        return (*missing, *self._left_out)

    @property
    def control_hz(self) -> float:
        """Steps a second."""
        return float(self.dataset.fps)

    @cached_property
    def fingerprint(self) -> str:
        """Of all files' sizes and times, and of the mapping."""
        return self._digest(lambda path: f"{path.stat().st_size} {path.stat().st_mtime_ns}")

    @cached_property
    def contents(self) -> str:
        """Of all files' sizes, what `meta` holds, and the mapping."""
        meta = self.root / "meta"
        return self._digest(
            lambda path: (
                hashlib.sha256(path.read_bytes()).hexdigest()
                if path.is_relative_to(meta)
                else f"{path.stat().st_size}"
            )
        )

    def _digest(self, stamp: Callable[[Path], str]) -> str:
        parts = [repr(self.mapping), *self._described]
        for folder in ("meta", "data", "videos"):
            for path in sorted(_files(self.root / folder)):
                parts.append(f"{path.relative_to(self.root)} {stamp(path)}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    @property
    def _described(self) -> list[str]:
        """What is read beside what a mapping's own text tells; nothing where there is nothing."""
        calibrated = self.mapping.calibration is not None
        with np.printoptions(floatmode="unique"):
            cameras = [repr(camera) for camera in (self.camera, *self.others.values()) if calibrated]
        further = [repr(self.mapping.cameras)] if self.mapping.cameras is not None else []
        state = [repr(self.mapping.state)] if self.mapping.state is not None else []
        return [*cameras, *further, *state]

    def __len__(self) -> int:
        return len(self.dataset)

    def episode(self, index: int) -> LeRobotEpisode:
        """Any episode.

        Raises InputError for a wrong index, CheckpointError, naming the file, for damaged data.
        """
        episode = self.dataset.episode(index)
        actions = self.mapping.motion.actions(episode.columns)
        if not np.isfinite(actions).all():
            raise CheckpointError(
                f"{self.root}, episode {index} has actions that are not finite; leave it out."
            )
        kept = moving(actions) if self.mapping.drop_no_ops else np.ones(len(actions), dtype=bool)
        first, fixed = self.mapping.motion.first_step, self.mapping.instruction
        instructions = filled(episode.instructions if fixed is None else [fixed] * len(episode))
        rows, where = slice(first, first + len(actions)), f"{self.root}, episode {index}"
        kept &= self.camera.was_there(episode.columns)[rows]
        view = LeRobotView(self.camera, episode, rows, where)
        _ = view.camera, view.extrinsics  # so that what they cannot be is said here
        return LeRobotEpisode(
            instructions=instructions[first:],
            actions=actions,
            starts=np.flatnonzero(kept),
            view=view,
            other_views={
                name: LeRobotView(camera, episode, rows, where)
                for name, camera in self.others.items()
                if camera.was_there(episode.columns)[rows].all()
            },
            state_mapping=self.state,
        )


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, behind links too."""
    for place, _, names in os.walk(folder, followlinks=True):
        paths = (Path(place) / name for name in names)
        yield from (path for path in paths if path.is_file())


def _reopened(
    root: Path, mapping: FeatureMapping, key: str, cameras: Collection[str] | None
) -> LeRobotSource:
    source = LeRobotSource(root, mapping, cameras=cameras)
    source.key = key
    return source


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
