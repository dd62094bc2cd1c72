"""What a client calls the parts of a camera, of the arm's state, and of how the gripper stands."""

from __future__ import annotations

from dataclasses import dataclass, replace

from spatialvla.geometry.rotations import Notation

_KEYS = ("image", "depth", "intrinsics", "extrinsics")


@dataclass(frozen=True)
class CameraKeys:
    """What a client calls what one of its cameras sees, and how the picture lies.

    image: the key of the picture. depth, intrinsics, extrinsics: of what it may send along, None where it has none.
    mirrored: the picture is flipped left to right.
    rotate_180: turn the picture (and depth, K and extrinsics with it) before the policy sees it.
    calibrated: the camera's name in the robot's calibration file, where that is not the policy's name for it.
    """

    image: str
    depth: str | None = None
    intrinsics: str | None = None
    extrinsics: str | None = None
    mirrored: bool = False
    rotate_180: bool = False
    calibrated: str | None = None

    def keys(self) -> dict[str, str]:
        """What the client calls each thing it may send, by our name for it."""
        return {name: key for name in _KEYS if (key := getattr(self, name)) is not None}

    def of(self, camera: str) -> CameraKeys:
        """The same with a camera's name for {camera} in the keys."""
        depth, intrinsics, extrinsics = (
            None if key is None else key.replace("{camera}", camera)
            for key in (self.depth, self.intrinsics, self.extrinsics)
        )
        image = self.image.replace("{camera}", camera)
        return replace(self, image=image, depth=depth, intrinsics=intrinsics, extrinsics=extrinsics)


@dataclass(frozen=True)
class StatePart:
    """Numbers of a state that come under one key.

    key: None for a 0 in their place. indices: which of the key's; all unless given.
    """

    key: str | None
    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class StateLayout:
    """A state that a client may send. parts: one after the other. names: of its numbers, () where nobody says them."""

    parts: tuple[StatePart, ...]
    names: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """What the client calls its parts, each once."""
        return tuple(dict.fromkeys(part.key for part in self.parts if part.key is not None))


@dataclass(frozen=True)
class GripperKeys:
    """Where the client says how the gripper stands.

    key: of the numbers. position: indices of x, y, z (meters). rotation: indices of its rotation in `notation`, none
    where it is not told.
    base: where the arm's base is in the frame of the position, whose axes are along it (meters); None where that is
    not known, as of scenes in which it differs.
    fingertips: where they are in the gripper's frame (meters); None where the position is theirs.
    """

    key: str
    position: tuple[int, int, int]
    rotation: tuple[int, ...] = ()
    notation: Notation = "none"
    base: tuple[float, float, float] | None = (0.0, 0.0, 0.0)
    fingertips: tuple[float, float, float] | None = None

    @property
    def tells_pose(self) -> bool:
        """Whether it is known how the gripper stands in the robot's frame."""
        return bool(self.rotation) and self.base is not None
