"""A dataset in which the wrist camera's picture, or the arm's state, tells where to go, and nothing else does."""

import numpy as np
from tiny_policy import SIZE

from spatialvla.data.lerobot import Feature, LeRobotWriter

WAYS = np.array([[0.4, 0.3, 0.2], [-0.3, 0.4, -0.2], [-0.4, -0.3, 0.2], [0.3, -0.4, -0.2]], np.float32)
COLORS = np.array([[230, 30, 30], [30, 230, 30], [30, 30, 230], [230, 230, 230]], np.uint8)
STATES = np.array([[1, 0, -1], [-1, 1, 0], [0, -1, 1], [1, 1, 1]], np.float32)
K = np.array([[40, 0, 16], [0, 40, 16], [0, 0, 1]], np.float32)
FRONT_POSE = np.array([[0, 0, 1, 0.5], [1, 0, 0, -0.2], [0, 1, 0, 0.3], [0, 0, 0, 1]], np.float32)
WRIST_POSE = np.array([[1, 0, 0, 0.1], [0, -1, 0, 0], [0, 0, -1, 0.4], [0, 0, 0, 1]], np.float32)
GRAY = np.full((SIZE, SIZE, 3), 90, np.uint8)


def wrist_picture(way):
    return np.full((SIZE, SIZE, 3), COLORS[way], np.uint8)


def write_told(root, told="wrist", episodes=8, length=6, wrist=True):
    """Episode e goes way e % 4 all the time. told: the part that says so, wrist or state; the other one is alike.

    wrist: whether there is such a camera at all.
    """
    features = [
        Feature("observation.images.front", "image", (SIZE, SIZE, 3)),
        Feature("observation.depth.front", "depth", (SIZE, SIZE)),
        Feature("observation.intrinsics.front", "float32", (3, 3)),
        Feature("observation.extrinsics.front", "float32", (4, 4)),
        Feature("observation.state", "float32", (3,)),
        Feature("action", "float32", (7,)),
    ]
    if wrist:
        features += [
            Feature("observation.images.wrist", "image", (SIZE, SIZE, 3)),
            Feature("observation.intrinsics.wrist", "float32", (3, 3)),
            Feature("observation.extrinsics.wrist", "float32", (4, 4)),
        ]
    writer = LeRobotWriter(root, fps=20, features=features)
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        way = episode % len(WAYS)
        actions = np.zeros((length, 7), np.float32)
        actions[:, :3] = WAYS[way]
        actions[:, 6] = np.arange(length) < length // 2
        shown, stands = (way, 3) if told == "wrist" else (3, way)
        columns = {
            "observation.images.front": np.repeat(GRAY[None], length, 0),
            "observation.depth.front": np.full((length, SIZE, SIZE), 1.2, np.float32),
            "observation.intrinsics.front": np.repeat(K[None], length, 0),
            "observation.extrinsics.front": np.repeat(FRONT_POSE[None], length, 0),
            "observation.state": STATES[stands] + 0.01 * rng.standard_normal((length, 3)).astype(np.float32),
            "action": actions,
        }
        if wrist:
            columns |= {
                "observation.images.wrist": np.repeat(wrist_picture(shown)[None], length, 0),
                "observation.intrinsics.wrist": np.repeat(K[None], length, 0),
                "observation.extrinsics.wrist": np.repeat(WRIST_POSE[None], length, 0),
            }
        writer.add_episode(columns, task="go")
    writer.finalize()
    return root
