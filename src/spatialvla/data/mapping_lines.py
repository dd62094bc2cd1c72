"""Lines of YAML that descriptions of datasets have in common: the action, cameras and where they stand, the state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, check_intrinsics
from spatialvla.geometry.extrinsics import check_extrinsics
from spatialvla.geometry.rotations import SIZES, Frame, Notation

FIRST_CAMERA = "image"
"""What the first camera is called, whose lines stand by themselves, where a name is needed: the published model's."""


@dataclass(frozen=True)
class ActionMapping:
    """Where the motion of the hand is.

    feature: the features whose numbers, joined, hold the action. from_state: the features whose numbers hold
    the pose of the hand, when the motion is to be taken from one state to the next as Bridge does; the last
    step then has none. indices: of position, rotation and gripper among them; all in order where it is empty.
    convention: `delta` motions, or `absolute` poses that were commanded, each of which becomes the motion
    from the command before, or from the pose in `relative_to` (its numbers at `relative_indices`).
    rotation: its notation, `none` where the hand does not turn. frame: in whose axes the motions made from poses are.
    meters, radians: what 1 is in the dataset; motions come out in meters and radians where they are given, and
    as they are where not.
    """

    feature: tuple[str, ...] = ("action",)
    from_state: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    convention: Literal["delta", "absolute"] = "delta"
    rotation: Notation = "euler"
    frame: Frame = "base"
    relative_to: tuple[str, ...] = ()
    relative_indices: tuple[int, ...] = ()
    meters: float | None = None
    radians: float | None = None

    @property
    def pose_size(self) -> int:
        """Numbers of position and rotation."""
        return 3 + SIZES[self.rotation]

    @property
    def of_poses(self) -> bool:
        """Whether motions are made from poses."""
        return bool(self.from_state) or self.convention == "absolute"

    def __post_init__(self) -> None:
        if self.from_state and self.convention == "absolute":
            raise InputError("from_state takes motions from poses already; leave out 'convention: absolute'.")
        if self.relative_to and self.convention != "absolute":
            raise InputError("relative_to is for poses; say 'convention: absolute', or leave it out.")
        if self.indices and len(self.indices) not in (self.pose_size, self.pose_size + 1):
            raise InputError(
                f"action indices name {len(self.indices)} numbers; with rotation {self.rotation} there are "
                f"{self.pose_size + 1}: 3 of the position, {SIZES[self.rotation]} of the rotation, 1 of the "
                "gripper."
            )
        if self.relative_indices and len(self.relative_indices) != self.pose_size:
            raise InputError(f"relative_indices needs the {self.pose_size} numbers of position and rotation.")
        for name, indices in (("indices", self.indices), ("relative_indices", self.relative_indices)):
            if len(set(indices)) < len(indices):
                raise InputError(f"{name} names a number twice: {', '.join(map(str, indices))}.")
        for name, number in (("meters", self.meters), ("radians", self.radians)):
            if number is not None and not 0 < number < np.inf:
                raise InputError(f"{name} must be positive and finite, not {number:g}.")


@dataclass(frozen=True)
class Intrinsics:
    """A camera that the dataset does not store: K in pixels of an image of this size."""

    K: tuple[tuple[float, ...], ...]
    height: int
    width: int

    def __post_init__(self) -> None:
        check_intrinsics(self.K, (self.height, self.width))

    @property
    def camera(self) -> Camera:
        """The same, checked."""
        return Camera(np.array(self.K, dtype=np.float64), self.height, self.width)


@dataclass(frozen=True)
class Extrinsics:
    """Where the camera stands: a feature that tells it, or a matrix that the dataset does not store.

    feature: camera -> robot base (4, 4) at each step, in meters; pictures flipped left to right may be part of it
    (determinant −1). matrix: the same of a camera that stands still. base: pose of the robot's base in the frame
    that these lead to, where it is another, such as a simulator's world. mirrored: the pictures are flipped left to
    right, and the matrices are the real camera's.
    """

    feature: str | None = None
    matrix: tuple[tuple[float, ...], ...] = ()
    base: tuple[tuple[float, ...], ...] = ()
    mirrored: bool = False

    def __post_init__(self) -> None:
        if (self.feature is None) == (not self.matrix):
            raise InputError("extrinsics have either a feature or a matrix; give one of the two.")
        _check_rows(self.base, "extrinsics' base")
        _check_rows(self.matrix, "extrinsics' matrix", is_pose=not self.base)


@dataclass(frozen=True)
class StateMapping:
    """Where the numbers are that say how the arm stands.

    feature: the features whose numbers, joined, hold them. indices: which of those, in this order; all unless given.
    """

    feature: tuple[str, ...]
    indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.feature:
            raise InputError("state has no feature; name one, or say 'state: none'.")
        if len(set(self.indices)) < len(self.indices):
            raise InputError(f"state indices name a number twice: {', '.join(map(str, self.indices))}.")


@dataclass(frozen=True)
class GripperPose:
    """Where the pose of the gripper is, from which the place of a camera follows that the gripper carries.

    feature: the features whose numbers, joined, hold it. indices: of position and rotation among them; all in order
    unless given. rotation: its notation. meters, radians: what 1 is in the dataset. base: pose of the robot's base in
    the frame that these are given in, where it is another, such as a simulator's world.
    """

    feature: tuple[str, ...]
    indices: tuple[int, ...] = ()
    rotation: Notation = "euler"
    meters: float = 1.0
    radians: float = 1.0
    base: tuple[tuple[float, ...], ...] = ()

    @property
    def size(self) -> int:
        """Numbers of position and rotation."""
        return 3 + SIZES[self.rotation]

    def __post_init__(self) -> None:
        if self.rotation == "none":
            raise InputError(
                "gripper_pose needs a rotation, without which no camera's place follows from it."
            )
        if self.indices and len(self.indices) != self.size:
            raise InputError(
                f"gripper_pose indices name {len(self.indices)} numbers; with rotation {self.rotation} there are "
                f"{self.size}: 3 of the position, {self.size - 3} of the rotation."
            )
        for name, number in (("meters", self.meters), ("radians", self.radians)):
            if not 0 < number < np.inf:
                raise InputError(f"gripper_pose {name} must be positive and finite, not {number:g}.")
        _check_rows(self.base, "gripper_pose's base")


def _check_rows(rows: tuple[tuple[float, ...], ...], what: str, is_pose: bool = True) -> None:
    if len({len(row) for row in rows}) > 1:
        raise InputError(f"{what} has rows of different lengths; give 4 of 4 numbers.")
    if rows and is_pose:
        check_extrinsics(np.array(rows))
