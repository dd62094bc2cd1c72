"""Where a camera stands, from pictures of a board that the gripper holds, or that a camera in the hand sees."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
from jaxtyping import Float

from spatialvla.calibration.least_squares import Linearized, Poses, derivatives, minimize, pixels
from spatialvla.calibration.pose_solver import PoseFit, flip, pose_sigmas, reprojection
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import inverse, pose_matrix

FEWEST_PICTURES = 3
_OUTLIER_PIXELS, _OUTLIER_TIMES = 3.0, 4.0
_WORST_PIXELS = 20.0
_SMALLEST_TURN = 0.05
"""Radians, as a root mean square: how far the gripper has to turn about a second axis, too."""

_MOST_SAMPLES, _SEED = 60, 0


def solve_board(
    corners: Float[np.ndarray, "M 3"],
    seen: Float[np.ndarray, "P M 2"],
    gripper_poses: Float[np.ndarray, "P 4 4"],
    camera: Camera,
    wrist: bool,
    mirrored: bool = False,
) -> PoseFit:
    """The pose of the camera, in the robot's frame, or in the gripper's where `wrist`; the board's is found with it.

    corners: of the board, in its own frame, z = 0, meters. seen: where each picture shows them. gripper_poses:
    gripper -> robot base at each picture. A standing camera sees a board that the gripper holds in any way; a
    camera in the hand sees one that lies anywhere. errors and outliers of the fit are (P * M,); all corners of a
    picture are outliers together.
    Raises InputError for too few pictures, turns about one axis alone, and where less than half of them fit.
    """
    if len(seen) < FEWEST_PICTURES:
        raise InputError(
            f"A board needs at least {FEWEST_PICTURES} pictures, got {len(seen)}; 10 or more, with the board turned "
            "about all axes, are good."
        )
    K = camera.intrinsics
    if mirrored:
        seen, K = flip(seen, camera)
    moves = inverse(gripper_poses) if wrist else gripper_poses
    check_turns(moves)
    boards = np.array([_board_pose(corners, pixels_, K) for pixels_ in seen])
    start, errors = _robust_start(corners, seen, moves, boards, K)
    kept = np.ones(len(seen), bool)
    for _ in range(10):
        typical = float(np.median(errors.mean(axis=1)))
        fits = errors.mean(axis=1) <= min(max(_OUTLIER_PIXELS, _OUTLIER_TIMES * typical), _WORST_PIXELS)
        if fits.sum() < max(FEWEST_PICTURES, len(seen) / 2):
            raise InputError(
                f"Only {fits.sum()} of {len(seen)} pictures fit one pose of the camera; look whether pictures, gripper "
                "poses (gripper -> base, meters), the board's squares and K belong together."
            )
        start, slope = minimize(start, _through_gripper(corners, seen[fits], moves[fits], K))
        errors = _errors(corners, seen, moves, start, K)
        if (fits == kept).all():
            break
        kept = fits
    check_turns(moves[kept])
    position, rotation = pose_sigmas(slope, errors[kept].ravel())
    residuals, _ = _through_gripper(corners, seen, moves, K)(start)
    reprojected = seen.reshape(-1, 2) + residuals.reshape(-1, 2)
    if mirrored:
        reprojected = flip(reprojected, camera)[0]
    return PoseFit(
        inverse(start[0]), reprojected, errors.ravel(), np.repeat(~kept, len(corners)), position, rotation
    )


def check_turns(poses: Float[np.ndarray, "P 4 4"]) -> None:
    """Raises InputError where poses are turned against each other about less than two axes."""
    relative = poses[0, :3, :3].T @ poses[:, :3, :3]
    # Of small and large turns alike, this is along the axis.
    axes = np.stack(
        [
            relative[:, 2, 1] - relative[:, 1, 2],
            relative[:, 0, 2] - relative[:, 2, 0],
            relative[:, 1, 0] - relative[:, 0, 1],
        ],
        axis=1,
    )
    spread = np.linalg.svd(axes / 2, compute_uv=False) / np.sqrt(len(poses))
    if spread[1] < _SMALLEST_TURN:
        raise InputError(
            "The gripper hardly turned, or about one axis only, which leaves the camera's position open; turn it by "
            "20° or more about two axes between the pictures."
        )


def _board_pose(corners: np.ndarray, seen: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(4, 4) board -> camera, from a homography (Zhang 2000, section 3.1), then least squares."""
    rays = (np.linalg.inv(K) @ np.c_[seen, np.ones(len(seen))].T).T
    scale = float(np.abs(corners).max())
    plane = np.c_[corners[:, :2] / scale, np.ones(len(corners))]
    zeros = np.zeros_like(plane)
    rows = np.concatenate(
        [
            np.concatenate([plane, zeros, -rays[:, :1] * plane], axis=1),
            np.concatenate([zeros, plane, -rays[:, 1:2] * plane], axis=1),
        ]
    )
    homography = np.linalg.svd(rows)[2][-1].reshape(3, 3)
    homography *= np.sign(homography[2, 2]) or 1.0
    first, second, position = homography.T
    length = (np.linalg.norm(first) + np.linalg.norm(second)) / 2
    turn = np.stack([first, second, np.cross(first, second) / length], axis=1) / length
    left, _, right = np.linalg.svd(turn)
    start = pose_matrix(
        position / length * scale, left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    )
    (pose,), _ = minimize([start], reprojection(corners, seen, K))
    return pose


def _robust_start(
    corners: np.ndarray, seen: np.ndarray, moves: np.ndarray, boards: np.ndarray, K: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Start of all pictures or of three, whichever suits half of the pictures best; and its errors (P, M)."""
    triples = list(combinations(range(len(seen)), FEWEST_PICTURES))
    if len(triples) > _MOST_SAMPLES:
        chosen = np.random.default_rng(_SEED).choice(len(triples), _MOST_SAMPLES, replace=False)
        triples = [triples[number] for number in chosen]
    best, least = None, np.inf
    for sample in [list(range(len(seen))), *map(list, triples)]:
        start = _linear(moves[sample], boards[sample])
        errors = _errors(corners, seen, moves, start, K)
        error = float(np.median(errors.mean(axis=1)))
        if best is None or error < least:
            best, least = (start, errors), error
    assert best is not None  # all pictures together are one of the samples
    start, errors = best
    close = (
        errors.mean(axis=1) <= np.sort(errors.mean(axis=1))[max(FEWEST_PICTURES, (len(seen) + 1) // 2) - 1]
    )
    start, _ = minimize(start, _through_gripper(corners, seen[close], moves[close], K))
    return start, _errors(corners, seen, moves, start, K)


def _linear(moves: np.ndarray, boards: np.ndarray) -> list[np.ndarray]:
    """X⁻¹ and Y of A Y = X B for each picture (Shah 2013): A moves, B board -> camera."""
    equations = [
        np.concatenate([np.kron(np.eye(3), a[:3, :3]), -np.kron(b[:3, :3].T, np.eye(3))], axis=1)
        for a, b in zip(moves, boards, strict=True)
    ]
    solution = np.linalg.svd(np.concatenate(equations))[2][-1]
    turn_y, turn_x = (half.reshape(3, 3).T for half in np.split(solution, 2))
    sign = np.sign(np.linalg.det(turn_x)) or 1.0
    turn_y, turn_x = _closest_rotation(sign * turn_y), _closest_rotation(sign * turn_x)
    left = np.concatenate([np.concatenate([a[:3, :3], -np.eye(3)], axis=1) for a in moves])
    right = np.concatenate([turn_x @ b[:3, 3] - a[:3, 3] for a, b in zip(moves, boards, strict=True)])
    positions = np.linalg.lstsq(left, right, rcond=None)[0]
    return [inverse(pose_matrix(positions[3:], turn_x)), pose_matrix(positions[:3], turn_y)]


def _closest_rotation(matrix: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(matrix)
    rotation: np.ndarray = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    return rotation


def _through_gripper(
    corners: np.ndarray, seen: np.ndarray, moves: np.ndarray, K: np.ndarray
) -> Callable[[Poses], Linearized]:
    """Residuals of two poses: the gripper's or the base's frame -> camera, and board -> the other of the two."""

    def linearize(poses: Poses) -> Linearized:
        to_camera, board = poses
        placed = corners @ board[:3, :3].T + board[:3, 3]
        way = to_camera @ moves
        in_camera = placed @ np.swapaxes(way[:, :3, :3], 1, 2) + way[:, None, :3, 3]
        projected, slope = pixels(in_camera, K)
        by_board = way[:, None, :3, :3] @ derivatives(placed)
        slopes = np.concatenate([slope @ derivatives(in_camera), slope @ by_board], axis=-1)
        return (projected - seen).ravel(), slopes.reshape(-1, 12)

    return linearize


def _errors(
    corners: np.ndarray, seen: np.ndarray, moves: np.ndarray, poses: Poses, K: np.ndarray
) -> np.ndarray:
    """(P, M) pixels."""
    residuals, _ = _through_gripper(corners, seen, moves, K)(poses)
    return np.asarray(np.linalg.norm(residuals.reshape(seen.shape), axis=-1))
