"""A LeRobot episode's numbers -> (T, 7) Δx Δy Δz Δroll Δpitch Δyaw gripper, as a mapping says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.features import BOOKKEEPING, Feature
from spatialvla.errors import InputError
from spatialvla.geometry.rotations import euler, matrices, motion

_JOINTS = ("joint", "motor", "shoulder", "elbow", "waist", "wrist_", "forearm", "servo")


def check_actions(features: Mapping[str, Feature], mapping: FeatureMapping) -> None:
    """Raises InputError, saying which line of a mapping helps, where the features do not make 7 numbers."""
    action = mapping.action
    names = action.from_state or action.feature
    gripper = mapping.gripper.feature if mapping.gripper else None
    for name in (*names, *action.relative_to, *((gripper,) if gripper else ())):
        if name not in features or not features[name].is_number:
            raise InputError(
                f"there is no feature of numbers '{name}'; the mapping's line 'action: {{feature: …}}' takes "
                f"one of {', '.join(_numbers(features))}."
            )
    size, needed = _size(features, names), action.pose_size + (not _apart(mapping))
    if not action.indices and any(_of_joints(features[name]) for name in names):
        raise InputError(
            f"'{', '.join(names)}' holds joint angles ({_listed(features, names)}), but actions are motions "
            f"of the hand; {_instead(features, names)}."
        )
    if not action.indices and size != needed:
        raise InputError(
            f"'{', '.join(names)}' holds {size} numbers ({_listed(features, names)}), not the {needed} of "
            f"{_parts(mapping)}; say which they are with 'action: {{indices: [...]}}', say how they turn the hand "
            f"with 'action: {{rotation: …}}', which may be none, or {_instead(features, names)}."
        )
    for indices, of in ((action.indices, names), (action.relative_indices, action.relative_to)):
        if indices and not 0 <= min(indices) <= max(indices) < _size(features, of):
            raise InputError(
                f"'{', '.join(of)}' has the indices 0 to {_size(features, of) - 1}, not {max(indices)}."
            )
    if len(action.indices) == action.pose_size and not _apart(mapping):
        raise InputError(
            "the action has no gripper; add its index, or a line 'gripper: {feature: …, index: …}'."
        )


def _parts(mapping: FeatureMapping) -> str:
    parts = (
        ["position"]
        + ["rotation"] * (mapping.action.rotation != "none")
        + ["gripper"] * (not _apart(mapping))
    )
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def first_step(mapping: FeatureMapping) -> int:
    """Steps at an episode's start without an action: those before a command has one to be relative to."""
    return int(mapping.action.convention == "absolute" and not mapping.action.relative_to)


def standard_actions(columns: Mapping[str, np.ndarray], mapping: FeatureMapping) -> np.ndarray:
    """(T, 7) float64 of the steps from `first_step` on; one less than the frames where motions need two."""
    action = mapping.action
    values = _joined(columns, action.from_state or action.feature, action.indices)
    pose = values[:, : action.pose_size]
    gripper = values[:, -1]
    if mapping.gripper is not None:
        if mapping.gripper.feature is not None:
            gripper = _joined(columns, (mapping.gripper.feature,), (mapping.gripper.index,))[:, 0]
        gripper = mapping.gripper.opening(gripper)
    if action.from_state:
        # A measured opening is that of the state which the motion leads to; a command is given before it.
        gripper = gripper[:-1] if _apart(mapping) else gripper[1:]
        moved = _motion(pose[:-1], pose[1:], mapping)
    elif action.convention == "absolute" and action.relative_to:
        moved = _motion(_joined(columns, action.relative_to, action.relative_indices), pose, mapping)
    elif action.convention == "absolute":
        gripper, moved = gripper[1:], _motion(pose[:-1], pose[1:], mapping)
    else:
        scaled = _scaled(pose, mapping)
        turned = scaled[:, 3:]
        if action.rotation != "euler":
            turned = euler(matrices(turned, action.rotation))
        moved = np.concatenate([scaled[:, :3], turned], axis=1)
    return np.concatenate([moved, gripper[:, None]], axis=1)


def _motion(before: np.ndarray, after: np.ndarray, mapping: FeatureMapping) -> np.ndarray:
    action = mapping.action
    before, after = _scaled(before[:, : action.pose_size], mapping), _scaled(after, mapping)
    rotations = [matrices(poses[:, 3:], action.rotation) for poses in (before, after)]
    return motion(before[:, :3], rotations[0], after[:, :3], rotations[1], action.frame)


def _scaled(poses: np.ndarray, mapping: FeatureMapping) -> np.ndarray:
    action = mapping.action
    meters = 1.0 if action.meters is None else action.meters
    angles = 1.0 if action.radians is None or action.rotation == "quaternion_xyzw" else action.radians
    return np.concatenate([poses[:, :3] * meters, poses[:, 3:] * angles], axis=1)


def _joined(columns: Mapping[str, np.ndarray], names: Sequence[str], indices: Sequence[int]) -> np.ndarray:
    """(T, N) float64 of several features, in order."""
    parts = [columns[name].reshape(len(columns[name]), -1) for name in names]
    values = np.concatenate(parts, axis=1, dtype=np.float64)
    return values[:, list(indices)] if indices else values


def _apart(mapping: FeatureMapping) -> bool:
    """Whether the gripper is not among the action's own numbers."""
    return mapping.gripper is not None and mapping.gripper.feature is not None


def _size(features: Mapping[str, Feature], names: Sequence[str]) -> int:
    return sum(int(np.prod(features[name].shape)) for name in names)


def _of_joints(feature: Feature) -> bool:
    return any(word in name.lower() for name in feature.names or () for word in _JOINTS)


def _listed(features: Mapping[str, Feature], names: Sequence[str]) -> str:
    found = [str(entry) for name in names for entry in features[name].names or ()]
    return ", ".join(found) or "without names"


def _instead(features: Mapping[str, Feature], names: Sequence[str]) -> str:
    """What could stand in for an action that cannot be used."""
    poses = [
        name
        for name in _numbers(features)
        if name not in names and _size(features, [name]) >= 6 and not _of_joints(features[name])
    ]
    if not poses:
        return "the dataset has no pose of the hand that could stand in"
    return f"take the motion from a pose of the hand with 'action: {{from_state: …}}' of {', '.join(poses)}"


def _numbers(features: Mapping[str, Feature]) -> list[str]:
    bookkeeping = {feature.name for feature in BOOKKEEPING}
    return [name for name, feature in features.items() if feature.is_number and name not in bookkeeping]
