"""A network small enough to train in a second, and a dataset of a few synthetic episodes for it."""

from pathlib import Path

import numpy as np

from spatialvla.actions.bins import Bins
from spatialvla.data.episodes import TAKEOVER
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.model.config import Gemma2Config, SpatialVLAConfig

SIZE = 32
BRIDGE = Path(__file__).parents[1] / "data" / "rlds" / "bridge_orig"
BINS = Bins(theta=4, phi=4, r=2, roll=2, pitch=2, yaw=2)
TEXT = 320
CAMERA_POSE = np.array([[0, 0, 1, 0.5], [1, 0, 0, -0.2], [0, 1, 0, 0.3], [0, 0, 0, 1]], np.float32)


def tiny() -> SpatialVLAConfig:
    return SpatialVLAConfig(
        text=Gemma2Config(
            vocab_size=TEXT + 32 + 8 + 2,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            query_pre_attn_scalar=16,
        ),
        vision={
            "hidden_size": 32,
            "image_size": SIZE,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "patch_size": 8,
            "vision_use_head": False,
        },
        depth={
            "backbone_config": {
                "model_type": "beit",
                "hidden_size": 16,
                "image_size": SIZE,
                "intermediate_size": 32,
                "num_hidden_layers": 4,
                "num_attention_heads": 2,
                "patch_size": 8,
                "use_relative_position_bias": True,
                "reshape_hidden_states": False,
                "out_indices": [1, 2, 3, 4],
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "neck_hidden_sizes": [8, 8, 8, 8],
            "fusion_hidden_size": 8,
            "bottleneck_features": 8,
            "num_relative_features": 4,
            "bin_embedding_dim": 8,
            "bin_configurations": [{"name": "only", "n_bins": 8, "min_depth": 1e-3, "max_depth": 4.0}],
        },
        image_token_index=4,
        action_token_begin_idx=TEXT,
        translation_token_num=32,
        rotation_token_num=8,
        action_chunk_size=2,
        n_freqs=2,
        depth_padding=0,
    )


def write_dataset(root, episodes=4, length=12, size=SIZE, driven=()):
    """A square moves over the image; the action is where it goes, and depth is nearer at the square.

    "observation.square" is where its center is in the world. driven: steps of each episode at which a policy drove.
    """
    rng = np.random.default_rng(0)
    writer = LeRobotWriter(
        root,
        fps=20,
        features=[
            Feature("observation.images.front", "image", (size, size, 3)),
            Feature("observation.depth.front", "depth", (size, size)),
            Feature("observation.intrinsics", "float32", (3, 3)),
            Feature("observation.camera_pose", "float32", (4, 4)),
            Feature("observation.square", "float32", (3,)),
            Feature("observation.state", "float32", (8,)),
            Feature("action", "float32", (7,)),
            Feature(TAKEOVER, "float32", (1,)),
        ],
    )
    camera = np.array([[40, 0, 16], [0, 40, 16], [0, 0, 1]], np.float32) * [[size / 32], [size / 32], [1]]
    for episode in range(episodes):
        heading = 2 * np.pi * episode / episodes
        images = np.full((length, size, size, 3), 90, np.uint8)
        depth = np.full((length, size, size), 1.5, np.float32)
        actions = np.zeros((length, 7), np.float32)
        squares = np.zeros((length, 3), np.float32)
        for frame in range(length):
            x, y = (size / 2 + (1 + frame) * size / 40 * np.array([np.cos(heading), np.sin(heading)])).astype(
                int
            )
            square = (slice(y - size // 10, y + size // 10), slice(x - size // 10, x + size // 10))
            images[(frame, *square)] = (220, 40, 40)
            depth[(frame, *square)] = 0.8
            squares[frame] = (
                CAMERA_POSE[:3, :3] @ (0.8 * np.linalg.inv(camera) @ [x, y, 1]) + CAMERA_POSE[:3, 3]
            )
            actions[frame, :6] = 0.05 * rng.standard_normal(6)
            actions[frame, :2] += 0.5 * np.array([np.cos(heading), np.sin(heading)])
            actions[frame, 6] = frame < length // 2
        writer.add_episode(
            {
                "observation.images.front": images,
                "observation.depth.front": depth,
                "observation.intrinsics": np.repeat(camera.astype(np.float32)[None], length, 0),
                "observation.camera_pose": np.repeat(CAMERA_POSE[None], length, 0),
                "observation.square": squares,
                TAKEOVER: np.isin(np.arange(length), driven).astype(np.float32)[:, None],
                "observation.state": rng.standard_normal((length, 8)).astype(np.float32),
                "action": actions,
            },
            task=("Push the square", "Pull the square")[episode % 2],
        )
    writer.finalize()
    return root
