"""The calibration that a user's file names beside an RLDS dataset: a robot's, or the files that DROID published."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from spatialvla.common.names import did_you_mean
from spatialvla.data.mapping_lines import FIRST_CAMERA
from spatialvla.data.oxe.droid_calibrations import PATH, DroidCalibrations
from spatialvla.data.oxe.placements import CarriedPlacement, DroidPlacement, Placement
from spatialvla.data.oxe.spec import RLDSCamera, RLDSSpec
from spatialvla.data.rlds.features import FeatureSpec
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.robot_calibration import RobotCalibration

Calibration = RobotCalibration | DroidCalibrations


def load_calibration(spec: RLDSSpec) -> Calibration | None:
    """What `spec.calibration` names: a folder has DROID's files, a file is a robot's. Raises InputError, naming it."""
    if spec.calibration is None:
        return None
    path = Path(spec.calibration)
    return DroidCalibrations(path) if path.is_dir() else RobotCalibration.load(path)


def calibrated_cameras(
    calibration: Calibration | None, spec: RLDSSpec, features: Mapping[str, FeatureSpec]
) -> Mapping[str, CalibratedCamera | Placement]:
    """Of each camera that a calibration tells of, by its name; "" is that of `other_image`.

    In a robot's a camera has its name here (the first is `image`), or the last part of its key. One that stands still
    is as calibrated, for pictures of the dataset's size; where the gripper carries it, or in DROID, each episode tells.
    Raises InputError, a sentence without the dataset's name in front, where it is not of these cameras.
    """
    cameras = {FIRST_CAMERA: spec.first_camera, **spec.cameras}
    if calibration is None:
        return {}
    if isinstance(calibration, RobotCalibration):
        return _of_robot(calibration, cameras, spec, features)
    if PATH not in features:
        raise InputError(
            f"has no '{PATH}', which tells the episodes of DROID apart; leave out the line 'calibration: …'."
        )
    if spec.other_image is not None:
        cameras[""] = RLDSCamera(spec.other_image)
    return {name: DroidPlacement(calibration, camera.image) for name, camera in cameras.items()}


def stamps(spec: RLDSSpec, timed: bool) -> list[str]:
    """What changes with the calibration that a spec names; with the times of large files, too, where `timed`."""
    if spec.calibration is None:
        return []
    path = Path(spec.calibration)
    if path.is_dir():
        return DroidCalibrations(path).stamps(timed)
    return [hashlib.sha256(path.read_bytes()).hexdigest()]


def _of_robot(
    calibration: RobotCalibration,
    cameras: Mapping[str, RLDSCamera],
    spec: RLDSSpec,
    features: Mapping[str, FeatureSpec],
) -> dict[str, CalibratedCamera | Placement]:
    found: dict[str, CalibratedCamera | Placement] = {}
    for name, camera in cameras.items():
        short = camera.image.rsplit("/", 1)[-1]
        # What the first one is called says only that it is the first.
        keys = (short, name) if name == FIRST_CAMERA else (name, short)
        known = next((calibration.cameras[key] for key in keys if key in calibration.cameras), None)
        if known is not None:
            found[name] = _placed(known, name, camera, spec, features)
        elif name == FIRST_CAMERA or "cameras" in spec.lines:
            raise InputError(
                f"has the camera '{name}', and {spec.calibration} has none of this name or {short!r}; "
                f"{did_you_mean(short, calibration.cameras)} Name it so in the calibration."
            )
    return found


def _placed(
    known: CalibratedCamera,
    name: str,
    camera: RLDSCamera,
    spec: RLDSSpec,
    features: Mapping[str, FeatureSpec],
) -> CalibratedCamera | Placement:
    pictures = features.get(f"steps/{camera.image}")
    height, width = (None, None) if pictures is None else pictures.shape[:2]
    if height is None or width is None:
        raise InputError(
            f"has no pictures of one size under '{camera.image}', so the calibration cannot be that of the camera "
            f"'{name}'; leave it out there."
        )
    try:
        known = known.scaled_to(height, width)
    except InputError as error:
        raise InputError(f"has pictures of {width}x{height} under '{camera.image}': {error}") from None
    if not known.moves:
        return known
    if spec.gripper_pose is None:
        raise InputError(
            f"has a camera '{name}' that the gripper carries, by {spec.calibration}, so its place follows from the "
            "gripper's pose; say where that is with the spec's line 'gripper_pose: {feature: …, indices: [...], "
            "rotation: …}'."
        )
    return CarriedPlacement(known, spec.gripper_pose)
