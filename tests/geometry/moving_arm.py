"""Pictures of an arm that moves above a table, by a camera that is told, or has been pushed."""

import numpy as np
from cameras import rotation

from spatialvla.geometry.extrinsics import pose_matrix, project

SIDE = 256
K = np.array([[310.0, 0, 128], [0, 310, 128], [0, 0, 1]])
FRONT = pose_matrix(np.array([1.3, 0.0, 0.7]), np.array([[0, 0.45, -0.893], [1, 0, 0], [0, -0.893, -0.45]]))


def path(steps: int = 60) -> np.ndarray:
    """Fingertips (T, 3) that go around above the table."""
    turn = np.linspace(0, 2 * np.pi, steps)
    return np.stack([0.45 + 0.1 * np.cos(turn), 0.15 * np.sin(turn), 0.15 + 0.1 * np.sin(2 * turn)], axis=1)


def pictures(camera: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(T, H, W, 3): a table with grain, and before it an arm that hangs from above and ends at the fingertips."""
    rng = np.random.default_rng(0)
    grain = np.kron(rng.integers(60, 200, (32, 32, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    # The table moves through the picture as a point far along the usual camera's axis does.
    right, down = (
        (project(FRONT[None, :3, 3] + 1.2 * FRONT[:3, 2], K, camera)[0][0] - SIDE / 2).round().astype(int)
    )
    grain = np.roll(grain, (down, right), axis=(0, 1))
    stripes = rng.integers(0, 255, 40)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    seen = []
    for tip, depth in zip(*project(positions, K, camera), strict=True):
        right, up = (columns - tip[0]) * depth / K[0, 0], (tip[1] - rows) * depth / K[1, 1]
        arm = (np.abs(right) < 0.05) & (up > 0)
        noise = rng.integers(-5, 6, (SIDE, SIDE, 3))
        shade = stripes[np.minimum((up.clip(0) * 60).astype(int), 39)]
        seen.append((np.where(arm[..., None], shade[..., None], grain) + noise).clip(0, 255).astype(np.uint8))
    return np.array(seen)


def turned(degrees: float, axis: list[float]) -> np.ndarray:
    return FRONT @ pose_matrix(np.zeros(3), rotation(np.radians(degrees) * np.array(axis)))
