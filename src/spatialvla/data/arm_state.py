"""How the arm stands, by a dataset's numbers: its state as a model gets it, and the pose of its gripper."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from spatialvla.data.hand_motions import Numbers, joined
from spatialvla.data.mapping_lines import GripperPose, StateMapping
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import inverse, pose_matrix
from spatialvla.geometry.rotations import matrices


def state_names(state: StateMapping, known: Mapping[str, Numbers]) -> tuple[str, ...]:
    """What each number of the state is: as the dataset's features `known` name it, or feature and index.

    Raises InputError, saying which line helps, where it has no such numbers.
    """
    indices = _indices(state.feature, state.indices, known, "state")
    parts = [(name, number) for name in state.feature for number in range(known[name].size)]
    named = [_name(known[name], name, number) for name, number in parts]
    chosen = [named[index] for index in indices]
    if len(set(chosen)) == len(chosen):
        return tuple(chosen)
    # Two arms may have numbers of the same names.
    return tuple(f"{parts[index][0]}.{named[index]}" for index in indices)


def state_of(state: StateMapping, columns: Mapping[str, np.ndarray]) -> Float[np.ndarray, "T S"]:
    """The state at each of T steps, in the dataset's units. Raises InputError where it is not finite."""
    values = joined(columns, state.feature, state.indices)
    if not np.isfinite(values).all():
        step = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise InputError(
            f"The state of step {step} is not finite; leave the episode out, or say 'state: none'."
        )
    return values


def check_gripper_feature(pose: GripperPose, known: Mapping[str, Numbers]) -> None:
    """Raises InputError, saying which line helps, where a dataset has no such numbers."""
    indices = _indices(pose.feature, pose.indices, known, "gripper_pose")
    if len(indices) != pose.size:
        raise InputError(
            f"'{', '.join(pose.feature)}' holds {len(indices)} numbers, not the {pose.size} of position and rotation "
            f"({pose.rotation}); say which they are with 'gripper_pose: {{indices: [...]}}'."
        )


def gripper_poses(pose: GripperPose, columns: Mapping[str, np.ndarray]) -> Float[np.ndarray, "T 4 4"]:
    """The gripper's pose, gripper -> robot base in meters, at each of T steps. Raises InputError for no rotation."""
    values = joined(columns, pose.feature, pose.indices)
    turned = values[:, 3:]
    if pose.rotation == "quaternion_xyzw":
        if not turned.any(axis=1).all():
            raise InputError("The gripper's quaternion is 0 at some step, which is no rotation.")
    else:
        turned = turned * pose.radians
    found = pose_matrix(values[:, :3] * pose.meters, matrices(turned, pose.rotation))
    return inverse(np.array(pose.base)) @ found if pose.base else found


def _indices(
    names: tuple[str, ...], indices: tuple[int, ...], known: Mapping[str, Numbers], line: str
) -> tuple[int, ...]:
    for name in names:
        if name not in known:
            none = ", or none" if line == "state" else ""
            raise InputError(
                f"there is no feature of numbers '{name}'; the line '{line}: {{feature: …}}' takes one of "
                f"{', '.join(known)}{none}."
            )
    size = sum(known[name].size for name in names)
    if wrong := [index for index in indices if not 0 <= index < size]:
        raise InputError(
            f"'{', '.join(names)}' has the indices 0 to {size - 1}, not {wrong[0]}; correct the line "
            f"'{line}: {{indices: [...]}}'."
        )
    return indices or tuple(range(size))


def _name(numbers: Numbers, feature: str, index: int) -> str:
    if len(numbers.names) == numbers.size:
        return numbers.names[index]
    short = feature.replace("/", ".").rsplit(".", 1)[-1]
    return short if numbers.size == 1 else f"{short}_{index}"
