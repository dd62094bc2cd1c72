"""Least squares of pixels over poses: Levenberg-Marquardt with steps on the rigid motions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spatialvla.geometry.extrinsics import pose_matrix
from spatialvla.geometry.rotations import matrices

Poses = Sequence[np.ndarray]
"""Some (4, 4) rigid motions."""

Linearized = tuple[np.ndarray, np.ndarray]
"""Residuals (M,) and their derivatives (M, 6 * poses) by `moved`."""

_ITERATIONS = 100
_SMALL = 1e-10


def moved(pose: np.ndarray, change: np.ndarray) -> np.ndarray:
    """A pose (4, 4) after a small motion of the frame it leads to: (6,) rotation vector and meters."""
    motion: np.ndarray = pose_matrix(change[3:], matrices(change[None, :3], "axis_angle")[0]) @ pose
    return motion


def derivatives(points: np.ndarray) -> np.ndarray:
    """(..., 3, 6): how points (..., 3) that a pose led to move by `moved`."""
    result = np.zeros((*points.shape, 6))
    x, y, z = np.moveaxis(points, -1, 0)
    result[..., 0, 1], result[..., 0, 2] = z, -y
    result[..., 1, 0], result[..., 1, 2] = -z, x
    result[..., 2, 0], result[..., 2, 1] = y, -x
    result[..., 3:] = np.eye(3)
    return result


def pixels(points: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points (..., 3) of the camera's frame are seen (..., 2), and the derivatives (..., 2, 3).

    Points behind the camera are kept in front of it, far outside the picture.
    """
    depth = np.maximum(points[..., 2:], 1e-3)
    seen = points[..., :2] / depth
    slope = np.concatenate([np.broadcast_to(np.eye(2), (*seen.shape, 2)), -seen[..., None]], axis=-1)
    return seen @ K[:2, :2].T + K[:2, 2], K[:2, :2] @ slope / depth[..., None]


def minimize(start: Poses, linearize: Callable[[Poses], Linearized]) -> tuple[list[np.ndarray], np.ndarray]:
    """The poses with the least sum of squared residuals near `start`, and their derivatives (M, 6 * poses) there."""
    poses, damping = list(start), 1e-3
    residuals, slope = linearize(poses)
    for _ in range(_ITERATIONS):
        normal, gradient = slope.T @ slope, slope.T @ residuals
        diagonal = np.diag(normal) + _SMALL
        change = -np.linalg.solve(normal + np.diag(damping * diagonal), gradient)
        tried = [moved(pose, part) for pose, part in zip(poses, np.split(change, len(poses)), strict=True)]
        new_residuals, new_slope = linearize(tried)
        if new_residuals @ new_residuals > residuals @ residuals:
            damping *= 10
            if damping > 1e8:
                break
            continue
        poses, residuals, slope, damping = tried, new_residuals, new_slope, max(damping / 10, 1e-9)
        if np.abs(change).max() < _SMALL:
            break
    return poses, slope
