"""A dataset's cameras: those of its spec that its files have, each with what is known of where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatialvla.data.camera_poses import fixed_pose
from spatialvla.data.mapping_lines import FIRST_CAMERA
from spatialvla.data.oxe.calibrations import Calibration, calibrated_cameras
from spatialvla.data.oxe.copies import Copy, swaps_red_and_blue
from spatialvla.data.oxe.named_features import check_camera
from spatialvla.data.oxe.placements import CarriedPlacement, Placement, StoredPlacement
from spatialvla.data.oxe.spec import RLDSCamera, RLDSSpec
from spatialvla.data.rlds.features import FeatureSpec
from spatialvla.data.rlds.reader import RLDSEpisode
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera


@dataclass(frozen=True)
class FoundCamera:
    """One camera of a dataset whose files have its pictures.

    swapped: whether red and blue have each other's place in the files. camera: its intrinsics, pose: (4, 4) camera ->
    robot base, mirrored where the pictures are; both where they are the same in all episodes. placement: tells both
    of each episode where they are not. depth_range: nearest and farthest meters that its depth is to be believed.
    """

    lines: RLDSCamera
    swapped: bool
    camera: Camera | None
    pose: np.ndarray | None
    placement: Placement | None
    depth_range: tuple[float, float] | None = None

    def was_there(self, stored: RLDSEpisode) -> bool:
        """Whether an episode has its pictures; where the files do not say, it has."""
        key = self.lines.present
        return key is None or key not in stored.specs or bool(np.any(stored.numbers(key)))


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


def find_cameras(
    spec: RLDSSpec,
    features: Mapping[str, FeatureSpec],
    calibration: Calibration | None,
    copy: Copy,
    root: str,
) -> FoundCameras:
    """The cameras of a dataset with these features; `check_features` has found the first one.

    Raises InputError where one that a user's file names is not there, it cannot be told which copy the files are, or
    the calibration is not of these cameras.
    """
    calibrated = calibrated_cameras(calibration, spec, features)

    def found(name: str, lines: RLDSCamera) -> FoundCamera:
        swapped = swaps_red_and_blue(spec.name, lines, features, copy, root)
        known = calibrated.get(name)
        if isinstance(known, CalibratedCamera):
            return FoundCamera(lines, swapped, known.camera, known.picture_pose(), None, known.depth_range)
        if known is not None:
            carried = known.calibrated.depth_range if isinstance(known, CarriedPlacement) else None
            return FoundCamera(lines, swapped, None, None, known, carried)
        told = lines.extrinsics
        if lines.intrinsics is None and (told is None or told.feature is None):
            return FoundCamera(lines, swapped, lines.camera, None if told is None else fixed_pose(told), None)
        return FoundCamera(lines, swapped, None, None, StoredPlacement(lines))

    first, named, missing = found(FIRST_CAMERA, spec.first_camera), {}, []
    for name, lines in spec.cameras.items():
        try:
            check_camera(spec, lines, features, f"camera '{name}'")
            named[name] = found(name, lines)
        except InputError as error:
            if "cameras" in spec.lines:
                raise
            why = str(error).removeprefix(f"{root} ").rstrip(".")
            missing.append(f"{why}; the camera '{name}' is missing.")
    in_turn: list[SeenFrom] = [(first, named)]
    if spec.other_image is not None:
        same = (camera for camera in named.values() if camera.lines.image == spec.other_image)
        lines = RLDSCamera(spec.other_image, channels=spec.channels, size=spec.size)
        other = next(same, None) or found("", lines)
        in_turn.append(
            (other, {name: first if camera is other else camera for name, camera in named.items()})
        )
    return FoundCameras(tuple(in_turn), tuple(missing))
