"""What tells of each episode's camera its intrinsics and where it stands: features, a calibration, or DROID's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spatialvla.data.arm_state import gripper_poses
from spatialvla.data.camera_poses import fixed_pose, stored_poses
from spatialvla.data.mapping_lines import GripperPose
from spatialvla.data.oxe.droid_calibrations import PATH, DroidCalibrations
from spatialvla.data.oxe.spec import RLDSCamera
from spatialvla.data.rlds.features import stored_key
from spatialvla.data.rlds.reader import RLDSEpisode
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera, check_intrinsics


class Placement(Protocol):
    """Of one camera. Both raise BadRecord, naming shard and offset, for what can be of no camera."""

    def camera(self, stored: RLDSEpisode) -> Camera | None:
        """In an episode's first step: intrinsics are taken to stay as they are. None where they are not known."""

    def poses(self, stored: RLDSEpisode, steps: slice) -> np.ndarray | None:
        """(T, 4, 4) camera -> robot base of an episode's steps, mirrored where the pictures are; None if unknown."""


@dataclass(frozen=True)
class StoredPlacement:
    """Features of the dataset tell it, or else the spec."""

    lines: RLDSCamera

    def camera(self, stored: RLDSEpisode) -> Camera | None:
        """As `Placement`; zeros are unknown."""
        if self.lines.intrinsics is None:
            return self.lines.camera
        key = stored_key(self.lines.intrinsics, stored.specs)
        first = np.asarray(stored.numbers(key)).reshape(-1, 9)[:1]
        if not first.any():
            return None
        height, width, _ = stored.specs[f"steps/{self.lines.image}"].shape
        try:
            return Camera(check_intrinsics(first.reshape(3, 3)), int(height or 0), int(width or 0))
        except InputError as error:
            raise BadRecord(f"{stored.origin}, '{key}': {error}") from None

    def poses(self, stored: RLDSEpisode, steps: slice) -> np.ndarray | None:
        """As `Placement`; zeros are unknown."""
        told, count = self.lines.extrinsics, steps.stop - steps.start
        if told is None:
            return None
        if told.feature is None:
            return np.broadcast_to(np.asarray(fixed_pose(told)), (count, 4, 4))
        key = stored_key(told.feature, stored.specs)
        numbers = np.asarray(stored.numbers(key)).reshape(-1, 16)
        try:
            found = stored_poses(numbers[steps] if key.startswith("steps/") else numbers, told)
        except InputError as error:
            raise BadRecord(f"{stored.origin}, '{key}': {error}") from None
        return found if found is None or len(found) == count else np.broadcast_to(found[0], (count, 4, 4))


@dataclass(frozen=True)
class CarriedPlacement:
    """The gripper carries the camera. calibrated: for pictures of the dataset's size. gripper: where its pose is."""

    calibrated: CalibratedCamera
    gripper: GripperPose

    def camera(self, stored: RLDSEpisode) -> Camera:
        """The calibrated one."""
        return self.calibrated.camera

    def poses(self, stored: RLDSEpisode, steps: slice) -> np.ndarray:
        """As `Placement`."""
        read = {key: np.asarray(stored.numbers(f"steps/{key}"))[steps] for key in self.gripper.feature}
        try:
            return self.calibrated.picture_pose(gripper_poses(self.gripper, read))
        except InputError as error:
            raise BadRecord(f"{stored.origin}: {error}") from None


@dataclass(frozen=True)
class DroidPlacement:
    """The calibrations that DROID's authors published afterwards. image: key of the camera's pictures."""

    calibrations: DroidCalibrations
    image: str

    def camera(self, stored: RLDSEpisode) -> Camera | None:
        """As `Placement`, but raises CheckpointError, naming the file and the episode, as `poses`."""
        return self.calibrations.camera(stored.texts(PATH)[0], self.image)

    def poses(self, stored: RLDSEpisode, steps: slice) -> np.ndarray | None:
        """As `Placement`."""
        pose = self.calibrations.pose(stored.texts(PATH)[0], self.image)
        return None if pose is None else np.broadcast_to(pose, (steps.stop - steps.start, 4, 4))
