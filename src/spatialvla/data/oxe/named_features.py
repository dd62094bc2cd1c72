"""Whether a dataset has the features that its spec names, and that they are of the kinds that are meant."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from spatialvla.data.arm_state import check_gripper_feature
from spatialvla.data.hand_motions import Numbers
from spatialvla.data.oxe.spec import RLDSCamera, RLDSSpec
from spatialvla.data.oxe.spec_file import NONE, DescribedActions
from spatialvla.data.rlds.features import FeatureSpec, stored_key
from spatialvla.errors import InputError


def check_features(spec: RLDSSpec, features: Mapping[str, FeatureSpec]) -> None:
    """Raises InputError, a sentence without the dataset's name in front, naming the closest of the right kind.

    Cameras beside the first, and the state, are apart.
    """
    check_camera(spec, spec.first_camera, features, "image")
    if spec.other_image is not None:
        _find(spec, "image", spec.other_image, features, _pictures(features, 3))
    if isinstance(spec.action, DescribedActions):
        try:
            spec.action.motion.check(numbers_of_steps(features))
        except InputError as error:
            raise InputError(f"does not fit the spec of {spec.key}: {error}") from None
    for key in spec.inputs:
        _find(spec, "action", key, features, [name for name in features if _is_number(features[name])])
    if spec.gripper_pose is not None:
        check_gripper_feature(spec.gripper_pose, numbers_of_steps(features))
    if spec.instruction != NONE:
        _find(spec, "instruction", spec.instruction, features, _texts(features))


def check_camera(spec: RLDSSpec, camera: RLDSCamera, features: Mapping[str, FeatureSpec], line: str) -> None:
    """The same of one camera. line: of the spec, as sentences call it."""
    _find(spec, line, camera.image, features, _pictures(features, 3))
    if camera.depth is not None:
        _find(spec, "depth", camera.depth, features, [*_pictures(features, 1), *_maps(features)])
    if camera.intrinsics is not None:
        matrices = [name for name, feature in features.items() if feature.shape in ((3, 3), (9,))]
        _find(spec, "intrinsics", camera.intrinsics, features, matrices)
        if None in features[f"steps/{camera.image}"].shape:
            raise InputError(
                f"has pictures of any size under '{camera.image}', so it is unknown for which the intrinsics are; "
                "give the spec's line 'intrinsics: {K, height, width}'."
            )
    if camera.extrinsics is not None and camera.extrinsics.feature is not None:
        matrices = [name for name, feature in features.items() if feature.shape in ((4, 4), (16,))]
        _find(spec, "extrinsics", camera.extrinsics.feature, features, matrices)


def _find(
    spec: RLDSSpec, line: str, key: str, features: Mapping[str, FeatureSpec], fitting: Iterable[str]
) -> None:
    """Raises InputError where the key is not of a feature that fits the line of the spec."""
    known, full = list(fitting), stored_key(key, features)
    if full in known:
        return
    names = [name.removeprefix("steps/") for name in known]
    close = ", ".join(get_close_matches(key, names, n=3, cutoff=0.3) or names) or "none"
    wrong = f"has '{full}', which is of another kind" if full in features else f"has no 'steps/{key}'"
    raise InputError(
        f"{wrong}, which the spec of {spec.key} names as its {line}; the closest of the right kind: {close}."
    )


def _pictures(features: Mapping[str, FeatureSpec], channels: int) -> list[str]:
    return [
        name
        for name, feature in features.items()
        if feature.kind == "image" and feature.shape[2:] == (channels,)
    ]


def _maps(features: Mapping[str, FeatureSpec]) -> list[str]:
    """Tensors of one number a pixel."""
    sizes = {name: feature.shape for name, feature in features.items() if _is_number(feature)}
    return [name for name, shape in sizes.items() if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)]


def _texts(features: Mapping[str, FeatureSpec]) -> list[str]:
    """Texts, and arrays of code points."""
    return [
        name
        for name, feature in features.items()
        if feature.kind == "text"
        or (_is_number(feature) and feature.dtype.kind in "iu" and len(feature.shape) == 1)
    ]


def numbers_of_steps(features: Mapping[str, FeatureSpec]) -> dict[str, Numbers]:
    """The features of steps that an action or the arm's state may be made of."""
    found = {}
    for name, feature in features.items():
        sizes = [size for size in feature.shape if size is not None]
        if (
            feature.is_of_steps
            and feature.depth == 1
            and _is_number(feature)
            and len(sizes) == len(feature.shape)
        ):
            found[name.removeprefix("steps/")] = Numbers(math.prod(sizes))
    return found


def _is_number(feature: FeatureSpec) -> bool:
    return feature.kind == "tensor" and feature.dtype.kind in "biuf"
