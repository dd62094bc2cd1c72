"""What one camera of a LeRobot dataset saw in an episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from spatialvla.data.arm_state import gripper_poses
from spatialvla.data.lerobot.extrinsics import extrinsics_of
from spatialvla.data.lerobot.feature_mapping import mapping_line
from spatialvla.data.lerobot.features import Feature
from spatialvla.data.lerobot.reader import StoredEpisode
from spatialvla.data.mapping_lines import Extrinsics, GripperPose
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera, believed_depth, check_intrinsics, check_readings


@dataclass(frozen=True)
class CameraFeatures:
    """One camera of a dataset, found and checked.

    name: a model's for it. image, depth: its features; depth None without a sensor.
    intrinsics: the feature that holds K, or K itself; extrinsics: the same of where it stands; None where neither
    is known. calibrated: tells both in place of features, for pictures of the image feature's size, and if the
    gripper carries the camera, then `gripper` says where the gripper's pose is. depth_range: nearest and farthest
    meters that its depth is to be believed. present: the feature that says at which steps the camera was there; None
    where it always was.
    """

    name: str
    image: Feature
    depth: Feature | None
    intrinsics: str | Camera | None
    extrinsics: str | Extrinsics | None
    calibrated: CalibratedCamera | None = None
    gripper: GripperPose | None = None
    depth_range: tuple[float, float] | None = None
    present: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its pictures, as info.json says."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def doubt(self) -> str | None:
        """That K is for pictures of another aspect, so that it is stretched as they may not have been; else None."""
        known, (height, width) = self.intrinsics, self.size
        if not isinstance(known, Camera) or known.has_aspect_of(height, width):
            return None
        return (
            f"K of the camera '{self.name}' is for pictures of {known.width} x {known.height} pixels, and these have "
            f"{width} x {height}, another aspect; it is stretched to them, which is wrong where they were cropped."
        )

    def was_there(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """(T,) bool, at which steps of an episode's `columns`; those of LeRobot's batches tell of the first alone."""
        there = True if self.present is None else columns[self.present].reshape(-1) != 0
        return np.broadcast_to(there, len(columns["frame_index"]))

    @property
    def videos(self) -> tuple[str, ...]:
        """The features whose video files are read."""
        return tuple(part.name for part in (self.image, self.depth) if part is not None and part.is_video)


@dataclass(frozen=True)
class LeRobotView:
    """What one camera saw in an episode's T steps, see `spatialvla.data.episodes.EpisodeView`.

    rows: of the stored frames that are the episode's steps. where: the episode, as sentences call it.
    """

    features: CameraFeatures
    stored: StoredEpisode = field(repr=False)
    rows: slice
    where: str

    @cached_property
    def camera(self) -> Camera | None:
        """Of the episode's first frame: intrinsics are taken to stay as they are.

        Raises CheckpointError where what is stored is no camera's.
        """
        chosen = self.features.intrinsics
        if chosen is None or isinstance(chosen, Camera):
            return chosen
        stored = self.stored.columns[chosen]
        if not len(stored) or not stored[0].any():
            return None
        try:
            return Camera(check_intrinsics(stored[0].reshape(3, 3)), *self.features.size)
        except InputError as error:
            raise self._damaged(f", '{chosen}': {error}", "intrinsics") from None

    @cached_property
    def extrinsics(self) -> np.ndarray | None:
        """(T, 4, 4) camera -> robot base, mirrored where the pictures are. Raises CheckpointError as `camera`."""
        columns = {name: values[self.rows] for name, values in self.stored.columns.items()}
        steps, calibrated = self.rows.stop - self.rows.start, self.features.calibrated
        try:
            if calibrated is not None and calibrated.moves and self.features.gripper is not None:
                return calibrated.picture_pose(gripper_poses(self.features.gripper, columns))
            if calibrated is not None:
                return np.broadcast_to(calibrated.picture_pose(), (steps, 4, 4))
            if self.features.extrinsics is None:
                return None
            return extrinsics_of(self.features.extrinsics, columns, steps)
        except InputError as error:
            raise self._damaged(f": {error}", "extrinsics") from None

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB.

        Raises CheckpointError, naming the file, where it is broken, and for pictures of another size than
        info.json says where the intrinsics are of that size.
        """
        image = self.features.image.name
        found = self.stored.frames(image, [self.rows.start + step for step in steps])
        by_size = isinstance(self.features.intrinsics, str) or self.features.calibrated is not None
        if by_size and self.camera is not None and found.shape[1:3] != self.features.size:
            height, width = self.features.size
            raise CheckpointError(
                f"'{image}' has pictures of {found.shape[1]}x{found.shape[2]} where info.json says {height}x{width}, "
                "so it is unknown for which the intrinsics are; correct info.json, or give the mapping's line "
                "'intrinsics: …'."
            )
        return found

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 meters, 0 where there is no reading to be believed; None where there was no sensor.

        Raises CheckpointError for what no sensor measures.
        """
        if self.features.depth is None:
            return None
        name = self.features.depth.name
        readings = self.stored.frames(name, [self.rows.start + step for step in steps])
        try:
            meters = check_readings(readings)
        except InputError as error:
            raise CheckpointError(f"Episode {self.stored.index}, '{name}': {error}") from None
        return believed_depth(meters, self.features.depth_range)

    def _damaged(self, why: str, line: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where}{why} A mapping's {mapping_line(self.features.name, line)} says others, or none."
        )
