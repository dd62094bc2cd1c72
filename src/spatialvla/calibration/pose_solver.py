"""Where a camera stands, from points whose positions are known: direct linear transform, then least squares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spatialvla.calibration.least_squares import Linearized, Poses, derivatives, minimize, pixels
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, mirror_intrinsics
from spatialvla.geometry.extrinsics import inverse, mirror_extrinsics, pose_matrix, project, transform

FEWEST = 6
"""Points that a direct linear transform needs."""

_SAMPLES, _SEED = 200, 0
_THINNEST = 0.01
"""Meters: how far points have to be spread, as a standard deviation, across the plane or line they are closest to."""

_FLATTEST = 0.04
"""Of their widest spread: the same for points far from each other."""

_NARROWEST = 5.0
"""Pixels: the same for where they are seen."""

_OUTLIER_PIXELS = 3.0
"""Errors up to here are those of whoever clicked on the picture."""

_EXACT_PIXELS = 0.5
"""Median errors up to here are no reason to doubt that pictures are flipped as it is said."""

_OUTLIER_SIGMAS = 5.0
_WORST = 0.02
"""Of the picture's diagonal: whoever points at something in a picture is closer."""

_SIGMA_OF_MEDIAN = 1 / np.sqrt(2 * np.log(2))
"""Standard deviation along an axis, of the median length of errors in the plane."""


@dataclass(frozen=True)
class PoseFit:
    """pose: (4, 4) camera -> the frame of the points. reprojected: (N, 2) pixels at which it sees each point.

    errors: (N,) pixels between those and where the points were seen. outliers: (N,) whether a point was left out
    of the fit. position_sigma: meters, rotation_sigma: radians, one standard deviation of the pose as far as the
    errors of the points explain it.
    """

    pose: Float[np.ndarray, "4 4"]
    reprojected: Float[np.ndarray, "N 2"]
    errors: Float[np.ndarray, " N"]
    outliers: np.ndarray
    position_sigma: float
    rotation_sigma: float

    @property
    def mean_error(self) -> float:
        """Pixels, of the points that are no outliers."""
        return float(self.errors[~self.outliers].mean())

    @property
    def largest_error(self) -> float:
        """Pixels, of the points that are no outliers."""
        return float(self.errors[~self.outliers].max())


def solve_pose(
    points: Float[np.ndarray, "N 3"], seen: Float[np.ndarray, "N 2"], camera: Camera, mirrored: bool = False
) -> PoseFit:
    """The camera's pose in the frame of `points`, which are seen at the pixels `seen`.

    mirrored: the pixels are of pictures flipped left to right, and K is theirs; the pose is the real camera's.
    A median over samples of six points finds a start that less than half of the points, if they are wrong, cannot
    spoil (Rousseeuw 1984); least squares over the others follow.
    Raises InputError for too few points, for points on a line or in a plane, and where less than half of them fit.
    """
    _check_points(points, seen)
    ways = ((seen, camera.intrinsics), flip(seen, camera))
    (seen, K), other = reversed(ways) if mirrored else ways
    start, median = _robust_start(points, seen, K)
    if median > _EXACT_PIXELS and _robust_start(points, *other)[1] < median / 3:
        given, kind = ("leave out", "that are not") if mirrored else ("say", "that are")
        raise InputError(
            f"The points fit pictures {kind} flipped left to right much better; {given} --mirrored, or look "
            "whether the robot's axes are right-handed."
        )
    inliers = np.ones(len(points), bool)
    errors = _errors(points, seen, K, start[None])[0]
    for _ in range(10):
        # Six numbers of the pose make the errors of few points smaller than the noise.
        sigma = float(np.median(errors)) * _SIGMA_OF_MEDIAN / np.sqrt(1 - 6 / (2 * len(points)))
        worst = _WORST * float(np.hypot(camera.width, camera.height))
        kept = errors <= min(max(_OUTLIER_PIXELS, _OUTLIER_SIGMAS * sigma), worst)
        if kept.sum() < max(FEWEST, len(points) / 2 + 1):
            raise InputError(
                f"Only {kept.sum()} of {len(points)} points fit one pose of the camera; look whether pixels, positions "
                "(meters, in the robot's frame) and K belong together."
            )
        (to_camera,), slope = minimize([inverse(start)], reprojection(points[kept], seen[kept], K))
        start = inverse(to_camera)
        errors = _errors(points, seen, K, start[None])[0]
        if (kept == inliers).all():
            break
        inliers = kept
    _check_points(points[inliers], seen[inliers])
    position, rotation = pose_sigmas(slope, errors[inliers])
    reprojected = project(points, camera.intrinsics, mirror_extrinsics(start) if mirrored else start)[0]
    return PoseFit(start, reprojected, errors, ~inliers, position, rotation)


def check_spread(points: Float[np.ndarray, "N 3"]) -> None:
    """Raises InputError for points on a line or in a plane, which leave the pose open."""
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False) / np.sqrt(len(points))
    least = max(_THINNEST, _FLATTEST * spread[0])
    if spread[1] < least:
        raise InputError(
            "The points lie on a line, which does not say how the camera is turned about it; move the gripper to "
            "all sides, up and down, too."
        )
    if spread[2] < least:
        raise InputError(
            f"The points lie in a plane (within {spread[2]:.3f} m), from which no camera's pose follows reliably; "
            "move the gripper up and down, too."
        )


def _check_points(points: np.ndarray, seen: np.ndarray) -> None:
    if len(points) < FEWEST:
        raise InputError(
            f"A camera's pose needs at least {FEWEST} points, got {len(points)}; 15 or more, all over the picture, "
            "are good."
        )
    if not (np.isfinite(points).all() and np.isfinite(seen).all()):
        raise InputError("Positions and pixels must be finite numbers; leave out points that were not seen.")
    check_spread(points)
    if np.linalg.svd(seen - seen.mean(axis=0), compute_uv=False)[1] / np.sqrt(len(seen)) < _NARROWEST:
        raise InputError(
            "The points are seen in one spot or on a line of the picture; move the gripper all over the picture."
        )


def flip(seen: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (..., 2) and K of the camera's pictures flipped left to right."""
    return seen * [-1, 1] + [camera.width, 0], mirror_intrinsics(camera.intrinsics, camera.width)


def _robust_start(points: np.ndarray, seen: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, float]:
    """The pose of the sample by which the median error is least, and that error in pixels."""
    rng = np.random.default_rng(_SEED)
    samples = np.array([rng.choice(len(points), FEWEST, replace=False) for _ in range(_SAMPLES)])
    poses = np.concatenate([_linear(points[None], seen[None], K), _linear(points[samples], seen[samples], K)])
    errors = _errors(points, seen, K, poses)
    medians = np.median(errors, axis=1)
    best = int(np.argmin(medians))
    # A sample's pose has the noise of six points: one fit of the better half, before errors are judged.
    close = errors[best] <= np.sort(errors[best])[max(FEWEST, (len(points) + 1) // 2) - 1]
    (to_camera,), _ = minimize([inverse(poses[best])], reprojection(points[close], seen[close], K))
    refined = inverse(to_camera)
    median = float(np.median(_errors(points, seen, K, refined[None])[0]))
    return (refined, median) if median < medians[best] else (poses[best], float(medians[best]))


def _linear(points: np.ndarray, seen: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(S, n, 3), (S, n, 2) -> poses (S, 4, 4): the direct linear transform (Hartley and Zisserman, section 7.1)
    of each sample, brought to the closest rigid motion.
    """
    ones = np.ones((*seen.shape[:2], 1))
    rays = np.concatenate([seen, ones], axis=2) @ np.linalg.inv(K).T
    center, scale = points.mean(axis=1, keepdims=True), points.std(axis=(1, 2)) + 1e-9
    homogeneous = np.concatenate([(points - center) / scale[:, None, None], ones], axis=2)
    zeros = np.zeros_like(homogeneous)
    horizontal = np.concatenate([homogeneous, zeros, -rays[..., :1] * homogeneous], axis=2)
    vertical = np.concatenate([zeros, homogeneous, -rays[..., 1:2] * homogeneous], axis=2)
    found = np.linalg.svd(np.concatenate([horizontal, vertical], axis=1))[2][:, -1].reshape(-1, 3, 4)
    depths = (homogeneous @ found[:, 2, :, None]).sum(axis=(1, 2))
    found = found * np.where(depths < 0, -1, 1)[:, None, None]
    left, sizes, right = np.linalg.svd(found[:, :, :3])
    left[:, :, 2] *= np.linalg.det(left @ right)[:, None]
    turn = left @ right
    positions = found[:, :, 3] * (scale / (sizes.mean(axis=1) + 1e-12))[:, None]
    return inverse(pose_matrix(positions - (turn @ center[:, 0, :, None])[..., 0], turn))


def _errors(points: np.ndarray, seen: np.ndarray, K: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """(S, N) pixels, for each pose (S, 4, 4); infinite behind the camera."""
    in_camera = transform(inverse(poses), points[None])
    errors = np.linalg.norm(pixels(in_camera, K)[0] - seen, axis=-1)
    return np.where(in_camera[..., 2] > 0, errors, np.inf)


def reprojection(points: np.ndarray, seen: np.ndarray, K: np.ndarray) -> Callable[[Poses], Linearized]:
    """What `minimize` needs to find one pose, of the points' frame -> camera."""

    def linearize(poses: Poses) -> Linearized:
        (to_camera,) = poses
        in_camera = points @ to_camera[:3, :3].T + to_camera[:3, 3]
        projected, slope = pixels(in_camera, K)
        return (projected - seen).ravel(), (slope @ derivatives(in_camera)).reshape(-1, 6)

    return linearize


def pose_sigmas(slope: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """Standard deviations of a camera's position, in meters, and of its rotation, in radians.

    slope: (2 N, 6 or more) derivatives of the pixels, by motions of the camera's frame first. errors: (N,) pixels.
    """
    variance = float((errors**2).sum()) / max(slope.shape[0] - slope.shape[1], 1)
    covariance = variance * np.linalg.inv(slope.T @ slope)
    return float(np.sqrt(np.trace(covariance[3:6, 3:6]))), float(np.sqrt(np.trace(covariance[:3, :3])))
