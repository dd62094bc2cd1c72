"""What is said of one Open X-Embodiment dataset: where its images, instructions, actions and states are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

from spatialvla.actions.units import ActionUnits
from spatialvla.data.mapping_lines import Extrinsics, GripperPose
from spatialvla.data.oxe.states import RLDSState
from spatialvla.geometry.camera import Camera

Channels = Literal["rgb", "bgr"]

_BESIDE = ("extrinsics", "cameras", "state", "gripper_pose")
"""Fields that what is trained without them does not depend on."""


@dataclass(frozen=True)
class RLDSCamera:
    """One camera of a dataset. Keys are those of a step, or else of the episode.

    image: its pictures. camera: intrinsics where they are published. intrinsics: key of K (3, 3) in pixels of
    `image`. extrinsics: where it stands, see `Extrinsics`. depth: the sensor's image, in which 1 is `depth_meters`.
    channels: of the pictures as they are published. size: their height and width there, by which a copy that was
    written anew is told; None where files are what the spec says. present: a feature of the episode that is true
    where the camera was there; pictures of others are black.
    """

    image: str
    camera: Camera | None = None
    intrinsics: str | None = None
    extrinsics: Extrinsics | None = None
    depth: str | None = None
    depth_meters: float = 1.0
    channels: Channels = "rgb"
    size: tuple[int, int] | None = None
    present: str | None = None


@dataclass(frozen=True)
class RLDSSpec:
    """How to read one dataset. Keys are those of a step, or else of the episode.

    name: of the dataset. control_hz: steps a second. action: makes (T, 7), see `spatialvla.data.oxe.actions`,
    of the arrays under `inputs`, which it is given in order. image: the third-person camera. instruction: the
    text of a step, or of a code point array; an episode where it is empty has none. version: of the TFDS
    folder. skip: steps to leave out at an episode's start. drop_no_ops: leave out the samples that start
    without motion. drop_still_chunks: leave out those whose chunk has no motion at all.
    other_image: a second third-person camera, that episodes of odd number are seen from; where it is one of
    `cameras`, too, the two change places there. camera: intrinsics of `image` where they are published.
    extrinsics: where it stands. cameras: beside it, by the names that published configurations have for them.
    state: the arm's own. units: of what `action` makes; those published of the dataset unless given.
    channels: of `image` as it is published. size: its height and width there, by which a copy that was written anew
    is told; None where files are what the spec says. keep_if: a feature that is true of the episodes to keep.
    For what a user's file describes (see `spatialvla.data.oxe.spec_file`), too: first_action: steps after those of
    `skip` that `action` makes none of. depth: the sensor's image, in which 1 is `depth_meters`. intrinsics: key of
    K (3, 3) in pixels of `image`. fixed_instruction: of all steps, in place of a key. calibration: what tells where
    the cameras stand, see `spatialvla.data.oxe.calibrations`; gripper_pose: for those that the gripper carries.
    lines: which of extrinsics, cameras, state and gripper_pose the file has; a dataset that lacks those is refused.
    Else what is not there is missing, and the source's `doubts` say so.
    """

    name: str
    control_hz: float
    action: Callable[..., np.ndarray]
    inputs: tuple[str, ...] = ("action",)
    image: str = "observation/image"
    instruction: str = "language_instruction"
    version: str = "0.1.0"
    skip: int = 0
    drop_no_ops: bool = False
    drop_still_chunks: bool = False
    other_image: str | None = None
    camera: Camera | None = None
    units: ActionUnits | None = None
    channels: Channels = "rgb"
    size: tuple[int, int] | None = None
    keep_if: str | None = None
    first_action: int = 0
    depth: str | None = None
    depth_meters: float = 1.0
    intrinsics: str | None = None
    fixed_instruction: str | None = None
    extrinsics: Extrinsics | None = None
    cameras: Mapping[str, RLDSCamera] = field(default_factory=dict)
    state: RLDSState | None = None
    calibration: str | None = None
    gripper_pose: GripperPose | None = None
    lines: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The name of the dataset's statistics in published checkpoints."""
        return f"{self.name}/{self.version}"

    def described(self, whole: bool) -> list[str]:
        """Its fields as text that is the same in every process.

        whole: with all that stands beside the first camera and the actions, not what a user's file says of it alone.
        """
        apart = (*_BESIDE, "calibration", "lines")
        names = [entry.name for entry in fields(self) if entry.name not in apart]
        named = [name for name in _BESIDE if whole or name in self.lines]
        return [f"{name} {_text(getattr(self, name))}" for name in (*names, *named)]

    @property
    def first_camera(self) -> RLDSCamera:
        """The one of `image`."""
        return RLDSCamera(
            self.image,
            self.camera,
            self.intrinsics,
            self.extrinsics,
            self.depth,
            self.depth_meters,
            self.channels,
            self.size,
        )

    @property
    def images(self) -> tuple[str, ...]:
        """Of all cameras, `image` first."""
        others = () if self.other_image is None else (self.other_image,)
        named = (camera.image for camera in self.cameras.values())
        return tuple(dict.fromkeys((self.image, *others, *named)))


def _text(value: object) -> object:
    """Functions by name, cameras by their numbers."""
    if isinstance(value, Camera):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _text(entry) for key, entry in value.items()}
    if isinstance(value, RLDSCamera):
        return {entry.name: _text(getattr(value, entry.name)) for entry in fields(value)}
    return getattr(value, "__qualname__", value)
