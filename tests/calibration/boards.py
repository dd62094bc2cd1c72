"""Pictures of a board, simulated: held by the gripper before a standing camera, or lying before one in the hand."""

import numpy as np
from cameras import CAMERA, looking_at, rotation

from spatialvla.calibration.chessboard import Chessboard
from spatialvla.geometry.extrinsics import pose_matrix, project, transform

BOARD = Chessboard(8, 5, 0.03)
FRONT = looking_at([1.2, 0.2, 0.6], [0.4, 0, 0.2])
HAND_EYE = pose_matrix(np.array([0.02, 0.06, -0.08]), rotation([0.1, -0.1, 1.3]))
LYING = pose_matrix(np.array([0.42, -0.05, 0.01]), rotation([0, 0, 0.4]) @ np.diag([1.0, -1, -1]))
HELD = pose_matrix(np.array([0.05, -0.04, 0.05]), rotation([0.1, 0.2, 0.3]))


def pictures(rng, wrist, count=12, turn=0.35, noise=0.0):
    """Gripper poses (count, 4, 4) at which the whole board is in the picture, and its corners' pixels."""
    poses, seen = [], []
    while len(poses) < count:
        way = rng.normal(0, turn, 3) if np.ndim(turn) == 0 else rng.normal(0, 1) * np.asarray(turn)
        if wrist:
            pose = pose_matrix(
                np.array([0.5, 0.05, 0.4]) + rng.normal(0, 0.08, 3), rotation(way) @ np.diag([1.0, -1, -1])
            )
            on, camera = LYING, pose @ HAND_EYE
        else:
            facing = FRONT[:3, :3] @ HELD[:3, :3].T
            pose = pose_matrix(np.array([0.5, 0.05, 0.25]) + rng.normal(0, 0.08, 3), rotation(way) @ facing)
            on, camera = pose @ HELD, FRONT
        pixels, depth = project(transform(on, BOARD.corners), CAMERA.intrinsics, camera)
        if ((pixels > 0) & (pixels < [640, 480])).all() and (depth > 0.1).all():
            poses.append(pose)
            seen.append(pixels + rng.normal(0, noise, pixels.shape))
    return np.array(poses), np.array(seen)


def drawn(camera_to_board, fine=3):
    """A picture of the printed board: each pixel takes the color of the point of the board's plane that it shows.

    fine: how many times as finely along each side it is drawn, before pixels are averaged.
    """
    rows, columns = (np.indices((480 * fine, 640 * fine)) + 0.5) / fine
    rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(CAMERA.intrinsics).T
    turn, position = camera_to_board[:3, :3], camera_to_board[:3, 3]
    ways = rays @ turn.T
    on = position + ways * (-position[2] / ways[..., 2])[..., None]
    x, y = on[..., 0] / BOARD.square, on[..., 1] / BOARD.square
    inside = (x > -1) & (x < 8) & (y > -1) & (y < 5)
    dark = (np.floor(x) + np.floor(y)) % 2 == 0
    gray = np.where(inside & dark, 30.0, 230.0)
    gray = gray.reshape(480, fine, 640, fine).mean(axis=(1, 3))
    return np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)
