"""Where a camera stands, by what a dataset stores and what a description says of it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from spatialvla.data.mapping_lines import Extrinsics
from spatialvla.geometry.extrinsics import check_extrinsics, check_picture_pose, inverse, mirror_extrinsics


def fixed_pose(told: Extrinsics) -> Float[np.ndarray, "4 4"] | None:
    """Of a camera that stands still and is written down: camera -> robot base, mirrored where the pictures are.

    Raises InputError where it can be of no camera.
    """
    return _pose(np.array(told.matrix), told) if told.matrix else None


def stored_poses(stored: np.ndarray, told: Extrinsics) -> Float[np.ndarray, "steps 4 4"] | None:
    """The same at each step, of a feature's (steps, 4, 4) or (steps, 16); None where it is zeros, which are unknown."""
    if not len(stored) or not stored.any():
        return None
    # Most cameras stand still: few of the matrices differ.
    different, of_step = np.unique(stored.reshape(-1, 16), axis=0, return_inverse=True)
    poses = np.array([_pose(matrix.reshape(4, 4), told) for matrix in different])
    found: np.ndarray = poses[of_step.reshape(-1)]
    return found


def _pose(matrix: np.ndarray, told: Extrinsics) -> Float[np.ndarray, "4 4"]:
    pose = np.asarray(matrix, np.float64)
    if told.base:
        pose = inverse(check_extrinsics(np.array(told.base))) @ pose
    return mirror_extrinsics(check_extrinsics(pose)) if told.mirrored else check_picture_pose(pose)
