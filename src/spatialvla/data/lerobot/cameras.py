"""Find the cameras of a LeRobot dataset by a mapping: their features, intrinsics, and where they stand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from spatialvla.common.names import did_you_mean
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.extrinsics import EXTRINSICS, check_extrinsics_feature
from spatialvla.data.lerobot.feature_mapping import (
    INTRINSICS,
    MAIN_IMAGE,
    PRESENT,
    CameraMapping,
    FeatureMapping,
    mapping_line,
    short_name,
)
from spatialvla.data.lerobot.features import Feature, meters_of_unit
from spatialvla.data.lerobot.views import CameraFeatures
from spatialvla.data.mapping_lines import FIRST_CAMERA, Extrinsics, Intrinsics
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.robot_calibration import RobotCalibration


def find_cameras(
    mapping: FeatureMapping, features: Mapping[str, Feature], wanted: Collection[str] | None = None
) -> tuple[list[CameraFeatures], list[str]]:
    """The cameras of a dataset with these features, the one that is looked through first.

    wanted: names of the others to find, or their features, as far as the dataset has them; all unless given.
    Also why each camera is left out that nobody named and that cannot be read.
    Raises InputError, saying which line of the mapping helps, where one is not there or cannot be read so.
    """
    first = replace(mapping.first_camera, image=_first_image(mapping, features))
    lines = {FIRST_CAMERA: first, **_further(mapping, first.image, features)}
    _check_apart(lines)
    images = [line.image for line in lines.values()]
    calibration = None if mapping.calibration is None else RobotCalibration.load(mapping.calibration)
    found, left_out = [], []
    for name, line in lines.items():
        if name != FIRST_CAMERA and wanted is not None and not {name, line.image} & set(wanted):
            continue
        try:
            found.append(_found(name, line, mapping, features, calibration, images))
        except InputError as error:
            if name == FIRST_CAMERA or mapping.cameras is not None or wanted is not None:
                raise
            left_out.append(f"The camera '{name}' is left out: {error}")
    return found, left_out


def through_any_camera(mapping: FeatureMapping, features: Mapping[str, Feature]) -> FeatureMapping:
    """The mapping for who looks at no picture: where it leaves open which camera is the first, any is.

    What it says of all cameras then does not count, as one of them may be meant for another.
    """
    cameras = _rgb(features)
    if mapping.image is not None or len(cameras) < 2 or MAIN_IMAGE in cameras:
        return mapping
    return replace(mapping, image=cameras[0], cameras=None, calibration=None)


def _further(
    mapping: FeatureMapping, first: str, features: Mapping[str, Feature]
) -> dict[str, CameraMapping]:
    """The lines of the cameras beside the one of the feature `first`, by their names.

    Raises InputError where one has the first one's name.
    """
    if mapping.cameras is not None:
        if FIRST_CAMERA in mapping.cameras:
            raise InputError(
                f"the camera '{FIRST_CAMERA}' is the first one, whose lines stand by themselves ('image: …'); give the "
                "one under 'cameras' another name."
            )
        return dict(mapping.other_cameras)
    others = [name for name, feature in features.items() if feature.is_rgb and name != first]
    short = [short_name(name) for name in others]
    return {
        part if short.count(part) == 1 and part != FIRST_CAMERA else name: CameraMapping(name)
        for part, name in zip(short, others, strict=True)
    }


def _first_image(mapping: FeatureMapping, features: Mapping[str, Feature]) -> str:
    """The feature that a mapping names, the only one, or that of the usual name."""
    cameras = _rgb(features)
    usual = cameras if len(cameras) == 1 else [name for name in cameras if name == MAIN_IMAGE]
    wanted = mapping.image or next(iter(usual), None)
    if wanted not in cameras:
        raise InputError(
            f"there are {'the cameras ' + ', '.join(cameras) if cameras else 'no cameras'}"
            f"{f', not {wanted}' if wanted else ''}; choose one with --camera or the mapping's line 'image: …'."
        )
    return str(wanted)


def _rgb(features: Mapping[str, Feature]) -> list[str]:
    return [name for name, feature in features.items() if feature.is_rgb]


def _check_apart(lines: Mapping[str, CameraMapping]) -> None:
    """Raises InputError where two cameras are one, or have each other's names."""
    owners: dict[str, str] = {}
    for name, line in lines.items():
        if line.image in owners:
            raise InputError(
                f"the cameras '{owners[line.image]}' and '{name}' both look through '{line.image}'; leave one out."
            )
        owners[line.image] = name
    by_name = {short_name(image): image for image in owners}
    for name, line in lines.items():
        other = by_name.get(name)
        if other is not None and name != short_name(line.image) and name != FIRST_CAMERA:
            raise InputError(
                f"the camera '{name}' looks through '{line.image}', while '{owners[other]}' looks through '{other}'; "
                "swap the two, or give them other names."
            )


def _found(
    name: str,
    line: CameraMapping,
    mapping: FeatureMapping,
    features: Mapping[str, Feature],
    calibration: RobotCalibration | None,
    images: Sequence[str],
) -> CameraFeatures:
    image = features.get(line.image)
    if image is None or not image.is_rgb:
        cameras = ", ".join(part.name for part in features.values() if part.is_rgb)
        raise InputError(
            f"there is no camera '{line.image}' but {cameras}; correct the mapping's {mapping_line(name, 'image')}."
        )
    camera = CameraFeatures(
        name,
        image,
        _depth(name, line, features),
        _intrinsics(name, line, features, images),
        _extrinsics(name, line, features, images),
        present=_present(line, features),
    )
    return camera if calibration is None else _calibrated(camera, line, mapping, calibration, images)


def _depth(name: str, line: CameraMapping, features: Mapping[str, Feature]) -> Feature | None:
    sensors = {name: feature for name, feature in features.items() if feature.is_depth}
    if line.depth is not None and line.depth not in sensors:
        others = f" but {', '.join(sensors)}" if sensors else ""
        raise InputError(
            f"there is no depth '{line.depth}'{others}; correct the mapping's "
            f"{mapping_line(name, 'depth')}, or info.json where it does not say how a video's depth is stored."
        )
    names = (line.depth, line.image.replace("images", "depth"), f"{line.image}_depth")
    found = next((sensors[key] for key in names if key in sensors), None)
    if found is not None:
        _check_depth(found)
    return found


def _check_depth(feature: Feature) -> None:
    """Raises InputError where it is not said how its numbers become meters."""
    try:
        meters_of_unit(feature.info)
        if feature.is_video:
            DepthQuantization.from_info(feature.info)
    except InputError as error:
        raise InputError(f"'{feature.name}': {error}") from None


def _intrinsics(
    name: str, line: CameraMapping, features: Mapping[str, Feature], images: Sequence[str]
) -> str | Camera | None:
    chosen = line.intrinsics
    if isinstance(chosen, Intrinsics):
        return chosen.camera
    if chosen is None:
        chosen = _usual(INTRINSICS, line.image, features, images)
    if chosen is None or chosen == "none":
        return None
    feature = features.get(chosen)
    if feature is None or int(np.prod(feature.shape)) != 9:
        raise InputError(
            f"there is no feature '{chosen}' of 3x3 numbers; give the mapping's {mapping_line(name, 'intrinsics')} "
            "another one, K with height and width, or none."
        )
    return chosen


def _extrinsics(
    name: str, line: CameraMapping, features: Mapping[str, Feature], images: Sequence[str]
) -> str | Extrinsics | None:
    chosen = line.extrinsics
    if chosen is None:
        chosen = _usual(EXTRINSICS, line.image, features, images)
    if chosen is None or chosen == "none":
        return None
    check_extrinsics_feature(chosen, features, f"the mapping's {mapping_line(name, 'extrinsics')}")
    return chosen


def _present(line: CameraMapping, features: Mapping[str, Feature]) -> str | None:
    name = f"{PRESENT}.{short_name(line.image)}"
    feature = features.get(name)
    return name if feature is not None and feature.is_number and feature.shape == (1,) else None


def _usual(base: str, image: str, features: Mapping[str, Feature], images: Sequence[str]) -> str | None:
    """The feature of the usual name that tells something of a camera.

    That of `observation.images.wrist` is `<base>.wrist`. `<base>` itself is that of `observation.images.main`, which
    conversions write first, whichever camera is looked through; where there is no such image, of the first camera if
    it has none of its own, else of the only camera that has none.
    """

    def own(camera: str) -> str:
        return f"{base}.{short_name(camera)}"

    if own(image) in features:
        return own(image)
    if MAIN_IMAGE in features and own(MAIN_IMAGE) not in features:
        return base if base in features and image == MAIN_IMAGE else None
    others = [camera for camera in images if own(camera) not in features]
    owner = images[0] if images[0] in others or len(others) != 1 else others[0]
    return base if base in features and image == owner else None


def _calibrated(
    camera: CameraFeatures,
    line: CameraMapping,
    mapping: FeatureMapping,
    calibration: RobotCalibration,
    images: Sequence[str],
) -> CameraFeatures:
    """The camera with what a robot's calibration file tells of it, where no lines of its own do."""
    known = calibration.cameras.get(_calibrated_name(camera, mapping, calibration, images))
    nobody_asked = mapping.cameras is None and camera.name != FIRST_CAMERA
    if known is None and (nobody_asked or (line.intrinsics is not None and line.extrinsics is not None)):
        return camera
    if known is None:
        short = short_name(line.image)
        raise InputError(
            f"{mapping.calibration} has no camera '{camera.name}'"
            f"{f' or {short!r}' if short != camera.name else ''}; {did_you_mean(short, calibration.cameras)} "
            f"Name it so, or give {mapping_line(camera.name, 'intrinsics')} and "
            f"{mapping_line(camera.name, 'extrinsics')}, which may be none."
        )
    camera = replace(camera, depth_range=known.depth_range)
    try:
        known = known.scaled_to(*camera.size)
    except InputError as error:
        raise InputError(f"'{line.image}': {error}") from None
    if line.intrinsics is None:
        camera = replace(camera, intrinsics=known.camera)
    if line.extrinsics is not None:
        return camera
    if known.moves and mapping.gripper_pose is None:
        raise InputError(
            f"the gripper carries the camera '{camera.name}' of {mapping.calibration}, so its place follows from the "
            "gripper's pose; say where that is with the mapping's line 'gripper_pose: {feature: …, indices: [...], "
            "rotation: …}'."
        )
    return replace(camera, extrinsics=None, calibrated=known, gripper=mapping.gripper_pose)


def _calibrated_name(
    camera: CameraFeatures, mapping: FeatureMapping, calibration: RobotCalibration, images: Sequence[str]
) -> str:
    """What a camera is called in the calibration: by its name here, or by its feature's.

    That of the first one says only that it is the first, so its feature's counts before. It may be the file's only one
    that stands still and is no other's.
    """
    names = (camera.name, short_name(camera.image.name))
    for name in reversed(names) if camera.name == FIRST_CAMERA else names:
        if name in calibration.cameras:
            return name
    others = {*(mapping.cameras or ()), *map(short_name, images)}
    standing = [name for name, one in calibration.cameras.items() if not one.moves and name not in others]
    return standing[0] if camera.name == FIRST_CAMERA and len(standing) == 1 else ""
