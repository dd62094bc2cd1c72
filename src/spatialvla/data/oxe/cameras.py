"""A dataset's cameras: those of its spec, as they are found in its files, and what they saw in an episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatialvla.data.mapping_lines import Extrinsics
from spatialvla.data.oxe.copies import Copy, swaps_red_and_blue
from spatialvla.data.oxe.named_features import check_camera
from spatialvla.data.oxe.spec import RLDSCamera, RLDSSpec
from spatialvla.data.rlds.features import FeatureSpec, stored_key
from spatialvla.data.rlds.reader import RLDSEpisode
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, check_intrinsics
from spatialvla.geometry.extrinsics import check_extrinsics, check_picture_pose, inverse, mirror_extrinsics


@dataclass(frozen=True)
class FoundCamera:
    """One camera of a dataset whose files have its pictures.

    swapped: whether red and blue have each other's place in the files. pose: (4, 4) camera -> robot base, mirrored
    where the pictures are, where it is the same in all episodes.
    """

    lines: RLDSCamera
    swapped: bool
    pose: np.ndarray | None

    def was_there(self, stored: RLDSEpisode) -> bool:
        """Whether an episode has its pictures; where the files do not say, it has."""
        key = self.lines.present
        return key is None or key not in stored.specs or bool(np.any(stored.numbers(key)))

    def stored_camera(self, stored: RLDSEpisode, key: str) -> Camera | None:
        """Of an episode's first step: intrinsics are taken to stay as they are. None where they are zeros.

        Raises BadRecord, naming shard and offset, for what is no camera's.
        """
        full = stored_key(key, stored.specs)
        first = np.asarray(stored.numbers(full)).reshape(-1, 9)[:1]
        if not first.any():
            return None
        height, width, _ = stored.specs[f"steps/{self.lines.image}"].shape
        try:
            return Camera(check_intrinsics(first.reshape(3, 3)), int(height or 0), int(width or 0))
        except InputError as error:
            raise BadRecord(f"{stored.origin}, '{full}': {error}") from None

    def stored_poses(self, stored: RLDSEpisode, steps: slice) -> np.ndarray | None:
        """(T, 4, 4) of an episode's steps, as `pose`; None where they are not stored, or zeros.

        Raises BadRecord, naming shard and offset, for what is no rigid motion.
        """
        told = self.lines.extrinsics
        if told is None or told.feature is None:
            return None
        key = stored_key(told.feature, stored.specs)
        found = np.asarray(stored.numbers(key), np.float64).reshape(-1, 16)
        found = found[steps] if key.startswith("steps/") else found.repeat(steps.stop - steps.start, axis=0)
        if not found.any():
            return None
        different, of_step = np.unique(found, axis=0, return_inverse=True)
        try:
            poses = np.array([_pose(matrix.reshape(4, 4), told) for matrix in different])
        except InputError as error:
            raise BadRecord(f"{stored.origin}, '{key}': {error}") from None
        return np.asarray(poses[of_step.reshape(-1)])


SeenFrom = tuple[FoundCamera, Mapping[str, FoundCamera]]
"""The camera that an episode is seen from, and the others by name."""


@dataclass(frozen=True)
class FoundCameras:
    """The cameras of a dataset.

    in_turn: of the first episode, the second and so on, in turn. missing: why each of the spec's other cameras is
    not among them, a sentence each without the dataset's name in front.
    """

    in_turn: tuple[SeenFrom, ...]
    missing: tuple[str, ...]

    @property
    def all(self) -> tuple[FoundCamera, ...]:
        """That of the first episode, and the others."""
        first, others = self.in_turn[0]
        return (first, *others.values())


def find_cameras(spec: RLDSSpec, features: Mapping[str, FeatureSpec], copy: Copy, root: str) -> FoundCameras:
    """The cameras of a dataset with these features; `check_features` has found the first one.

    Raises InputError where one that a user's file names is not there, or it cannot be told which copy the files are.
    """

    def found(lines: RLDSCamera) -> FoundCamera:
        told = lines.extrinsics
        pose = _pose(np.array(told.matrix), told) if told is not None and told.matrix else None
        return FoundCamera(lines, swaps_red_and_blue(spec.name, lines, features, copy, root), pose)

    first, named, missing = found(spec.first_camera), {}, []
    for name, lines in spec.cameras.items():
        try:
            check_camera(spec, lines, features, f"camera '{name}'")
            named[name] = found(lines)
        except InputError as error:
            if "cameras" in spec.lines:
                raise
            why = str(error).removeprefix(f"{root} ").rstrip(".")
            missing.append(f"{why}; the camera '{name}' is missing.")
    in_turn: list[SeenFrom] = [(first, named)]
    if spec.other_image is not None:
        same = (camera for camera in named.values() if camera.lines.image == spec.other_image)
        other = next(same, None) or found(
            RLDSCamera(spec.other_image, channels=spec.channels, size=spec.size)
        )
        in_turn.append(
            (other, {name: first if camera is other else camera for name, camera in named.items()})
        )
    return FoundCameras(tuple(in_turn), tuple(missing))


def _pose(matrix: np.ndarray, told: Extrinsics) -> np.ndarray:
    pose = np.asarray(matrix, np.float64)
    if told.base:
        pose = inverse(check_extrinsics(np.array(told.base))) @ pose
    return mirror_extrinsics(check_extrinsics(pose)) if told.mirrored else check_picture_pose(pose)
