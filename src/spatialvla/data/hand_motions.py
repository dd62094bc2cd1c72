"""A dataset's numbers of each step -> (T, 7) Δx Δy Δz Δroll Δpitch Δyaw gripper, 1 = open, by its description."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spatialvla.data.mapping_lines import ActionMapping
from spatialvla.errors import InputError
from spatialvla.geometry.rotations import euler, matrices, motion, notated

_MOVES = 0.1  # a relative gripper command of less than this leaves the gripper as it is
_SETTLED = 0.05  # from 0 or 1
_FAR_OUTSIDE = 0.1  # of an episode's steps, with a gripper outside of its range by three times that
_JOINTS = ("joint", "motor", "shoulder", "elbow", "waist", "wrist_", "forearm", "servo")


@dataclass(frozen=True)
class GripperMapping:
    """How the gripper becomes 1 = open, 0 = closed.

    feature, index: where it is, the last of the action's numbers unless given. open: whether `max` (1) or
    `min` (0) is open. What lies a little outside of min and max is clipped. commands: whether the two are commands
    to open and to close, and what lies halfway changes nothing.
    """

    feature: str | None = None
    index: int = 0
    open: int = 1
    min: float = 0.0
    max: float = 1.0
    commands: bool = False

    def __post_init__(self) -> None:
        if self.open not in (0, 1) or not -np.inf < self.min < self.max < np.inf:
            raise InputError(
                "the gripper needs 'open: 1' where its max is open or 'open: 0' where its min is, and a finite min "
                "below its max."
            )

    def opening(self, values: np.ndarray) -> np.ndarray:
        """(T,) as stored -> (T,) in [0, 1] with 1 = open.

        Raises InputError where they are in another unit than `min` and `max`: clipped, a gripper of 0 to 100 would
        be open or closed and nothing between.
        """
        share = (values - self.min) / (self.max - self.min)
        if len(share) and np.mean(np.abs(share - 0.5) > 3.5) > _FAR_OUTSIDE:
            raise InputError(
                f"the gripper goes from {values.min():g} to {values.max():g}, far outside of min {self.min:g} and max "
                f"{self.max:g}; say what it reaches with 'gripper: {{min: …, max: …}}'."
            )
        share = np.clip(share, 0.0, 1.0)
        opening = np.asarray(share if self.open == 1 else 1.0 - share)
        return from_closing_commands(1.0 - 2.0 * opening) if self.commands else opening

    def stored(self, opening: np.ndarray) -> np.ndarray:
        """(T,) in [0, 1] with 1 = open -> (T,) as stored."""
        share = opening if self.open == 1 else 1.0 - opening
        return np.asarray(self.min + (self.max - self.min) * share)


@dataclass(frozen=True)
class Numbers:
    """A feature that is an array of numbers. size: of each step. names: of its entries, where they have some."""

    size: int
    names: tuple[str, ...] = ()

    @property
    def of_joints(self) -> bool:
        """Whether its names are those of an arm's joints."""
        return any(word in name.lower() for name in self.names for word in _JOINTS)


@dataclass(frozen=True)
class HandMotion:
    """How a dataset's numbers become actions. gripper: None leaves the stored number as it is."""

    action: ActionMapping
    gripper: GripperMapping | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """All that are read."""
        gripper = self.gripper.feature if self.gripper else None
        names = (*self._pose_features, *self.action.relative_to, *((gripper,) if gripper else ()))
        return tuple(dict.fromkeys(names))

    @property
    def first_step(self) -> int:
        """Steps at an episode's start without an action: those before a command has one to be relative to."""
        return int(self.action.convention == "absolute" and not self.action.relative_to)

    def check(self, known: Mapping[str, Numbers]) -> None:
        """Raises InputError, saying which line helps, where the features by name do not make 7 numbers."""
        action, names = self.action, self._pose_features
        for name in self.features:
            if name not in known:
                raise InputError(
                    f"there is no feature of numbers '{name}'; the line 'action: {{feature: …}}' takes "
                    f"one of {', '.join(known)}."
                )
        size, needed = _size(known, names), action.pose_size + (not self._gripper_apart)
        if not action.indices and any(known[name].of_joints for name in names):
            raise InputError(
                f"'{', '.join(names)}' holds joint angles ({_listed(known, names)}), but actions are motions "
                f"of the hand; {_instead(known, names)}."
            )
        if not action.indices and size != needed:
            raise InputError(
                f"'{', '.join(names)}' holds {size} numbers ({_listed(known, names)}), not the {needed} of "
                f"{self._parts}; say which they are with 'action: {{indices: [...]}}', say how they turn the hand "
                f"with 'action: {{rotation: …}}', which may be none, or {_instead(known, names)}."
            )
        if action.relative_to and not action.relative_indices:
            self._check_start(known)
        chosen = [(action.indices, names), (action.relative_indices, action.relative_to)]
        if self.gripper is not None and self.gripper.feature is not None:
            chosen.append(((self.gripper.index,), (self.gripper.feature,)))
        for indices, of in chosen:
            size = _size(known, of)
            if wrong := [index for index in indices if not 0 <= index < size]:
                raise InputError(f"'{', '.join(of)}' has the indices 0 to {size - 1}, not {wrong[0]}.")
        if len(action.indices) == action.pose_size and not self._gripper_apart:
            raise InputError(
                "the action has no gripper; add its index, or a line 'gripper: {feature: …, index: …}'."
            )

    def actions(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """(T, 7) float64 of the steps from `first_step` on; one less than the frames where motions need two.

        columns: (T, …) the numbers of each frame by feature, of `features` at least.
        """
        action = self.action
        values = joined(columns, self._pose_features, action.indices)
        pose = values[:, : action.pose_size]
        gripper = values[:, -1]
        if self.gripper is not None:
            if self.gripper.feature is not None:
                gripper = joined(columns, (self.gripper.feature,), (self.gripper.index,))[:, 0]
            gripper = self.gripper.opening(gripper)
        if action.from_state:
            # A measured opening is that of the state which the motion leads to; a command is given before it.
            gripper = gripper[:-1] if self._gripper_apart else gripper[1:]
            moved = self._motion(pose[:-1], pose[1:])
        elif action.convention == "absolute" and action.relative_to:
            moved = self._motion(joined(columns, action.relative_to, action.relative_indices), pose)
        elif action.convention == "absolute":
            gripper, moved = gripper[1:], self._motion(pose[:-1], pose[1:])
        else:
            scaled = self._scaled(pose)
            turned = scaled[:, 3:]
            if action.rotation != "euler":
                turned = euler(matrices(turned, action.rotation))
            moved = np.concatenate([scaled[:, :3], turned], axis=1)
        return np.concatenate([moved, gripper[:, None]], axis=1)

    def stored(self, actions: np.ndarray) -> np.ndarray:
        """(T, 7) actions -> (T, N) the numbers of the feature that says them: the inverse of `actions`.

        Raises InputError where they do not follow from the actions alone, as poses do not.
        """
        action = self.action
        indices = action.indices or tuple(range(action.pose_size + 1))
        if action.of_poses or len(action.feature) > 1 or self._gripper_apart:
            raise InputError(
                "The actions of this mapping are made of poses or of several features, and a robot cannot be told "
                "motions in those; record or convert the dataset in motions, or serve the policy with `spatialvla "
                "serve`, whose clients take motions."
            )
        if sorted(indices) != list(range(len(indices))):
            raise InputError(
                f"The mapping reads the numbers {', '.join(map(str, indices))} of '{action.feature[0]}' alone, and "
                "nothing tells the robot the others; convert the dataset to actions that it can be told whole."
            )
        turned = actions[:, 3:6]
        if action.rotation != "euler":
            turned = notated(matrices(turned, "euler"), action.rotation)
        gripper = actions[:, 6] if self.gripper is None else self.gripper.stored(actions[:, 6])
        pose = np.concatenate([actions[:, :3], turned], axis=1) / self._sizes
        numbers = np.empty((len(actions), len(indices)))
        numbers[:, list(indices)] = np.concatenate([pose, gripper[:, None]], axis=1)
        return numbers

    def _check_start(self, known: Mapping[str, Numbers]) -> None:
        """Raises InputError where what poses are relative to is no such pose itself."""
        start, needed = self.action.relative_to, self.action.pose_size
        if any(known[name].of_joints for name in start):
            raise InputError(
                f"relative_to: '{', '.join(start)}' holds joint angles ({_listed(known, start)}), but a pose of the "
                "hand is relative to another pose of it; name one, or leave relative_to out."
            )
        if (size := _size(known, start)) != needed:
            raise InputError(
                f"relative_to: '{', '.join(start)}' holds {size} numbers ({_listed(known, start)}), not the {needed} "
                "of a pose as the action's; say which they are with 'action: {relative_indices: [...]}'."
            )

    @property
    def _pose_features(self) -> tuple[str, ...]:
        return self.action.from_state or self.action.feature

    @property
    def _gripper_apart(self) -> bool:
        """Whether the gripper is not among the action's own numbers."""
        return self.gripper is not None and self.gripper.feature is not None

    @property
    def _parts(self) -> str:
        parts = (
            ["position"]
            + ["rotation"] * (self.action.rotation != "none")
            + ["gripper"] * (not self._gripper_apart)
        )
        return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))

    def _motion(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        action = self.action
        before, after = self._scaled(before[:, : action.pose_size]), self._scaled(after)
        rotations = [matrices(poses[:, 3:], action.rotation) for poses in (before, after)]
        return motion(before[:, :3], rotations[0], after[:, :3], rotations[1], action.frame)

    def _scaled(self, poses: np.ndarray) -> np.ndarray:
        return np.asarray(poses * self._sizes)

    @property
    def _sizes(self) -> np.ndarray:
        """(pose_size,) what 1 in each number of a pose is, as far as it is told."""
        action = self.action
        meters = 1.0 if action.meters is None else action.meters
        angles = 1.0 if action.radians is None or action.rotation == "quaternion_xyzw" else action.radians
        return np.array([meters] * 3 + [angles] * (action.pose_size - 3))


def joined(columns: Mapping[str, np.ndarray], names: Sequence[str], indices: Sequence[int]) -> np.ndarray:
    """(T, N) float64 of several features in order, or the numbers of these indices among them."""
    parts = [columns[name].reshape(len(columns[name]), math.prod(columns[name].shape[1:])) for name in names]
    values = np.concatenate(parts, axis=1, dtype=np.float64)
    return values[:, list(indices)] if indices else values


def _size(known: Mapping[str, Numbers], names: Sequence[str]) -> int:
    return sum(known[name].size for name in names)


def _listed(known: Mapping[str, Numbers], names: Sequence[str]) -> str:
    return ", ".join(entry for name in names for entry in known[name].names) or "without names"


def _instead(known: Mapping[str, Numbers], names: Sequence[str]) -> str:
    """What could stand in for an action that cannot be used."""
    poses = [
        name
        for name, numbers in known.items()
        if name not in names and numbers.size >= 6 and not numbers.of_joints
    ]
    if not poses:
        return "the dataset has no pose of the hand that could stand in"
    return f"take the motion from a pose of the hand with 'action: {{from_state: …}}' of {', '.join(poses)}"


def inverted(closed: np.ndarray) -> np.ndarray:
    """(T,) of 1 = closed -> (T,) of 1 = open."""
    return 1.0 - closed


def clipped(values: np.ndarray) -> np.ndarray:
    """Cut to [0, 1]."""
    return np.asarray(np.clip(values, 0.0, 1.0))


def from_closing_commands(commands: np.ndarray) -> np.ndarray:
    """+1 closes, -1 opens, 0 changes nothing. Before the first command the gripper is the opposite of it.

    An episode without any command counts as open. (Octo and OpenVLA read these datasets alike.)
    """
    state = np.where(commands < -_MOVES, 1.0, np.where(commands > _MOVES, 0.0, np.nan))
    given = np.flatnonzero(~np.isnan(state))
    if not len(given):
        return np.ones(len(commands))
    last = np.searchsorted(given, np.arange(len(state)), side="right") - 1
    return np.where(last >= 0, state[given[np.maximum(last, 0)]], 1.0 - state[given[0]])


def settled(values: np.ndarray) -> np.ndarray:
    """Measured openings on their way take the value they settle at; what never settles takes the last one."""
    arrived = np.flatnonzero((values > 1 - _SETTLED) | (values < _SETTLED))
    following = np.searchsorted(arrived, np.arange(len(values)))
    is_open = np.append(values[arrived] > 1 - _SETTLED, values[-1:]).astype(np.float64)
    return is_open[following]
