"""LeRobot's side of `lerobot_video.py`, for a Python that has LeRobot: makes datasets, and reads samples on demand.

    PYTHON benchmarks/lerobot_side.py make FOLDER EPISODES STEPS
    PYTHON benchmarks/lerobot_side.py read FOLDER

`read` answers each line {"seed", "count"} with the seconds of as many samples drawn at random, and {"look": INDEX}
with a sum of each picture's pixels.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

CAMERAS, HEIGHT, WIDTH, FPS, CHUNK = ("top", "left", "wrist"), 480, 640, 30, 4


def make(root: Path, episodes: int, steps: int) -> None:
    """Moving textures with noise from three cameras, and depth of the first, all stored as LeRobot does by itself."""
    picture = {
        "dtype": "video",
        "shape": (HEIGHT, WIDTH, 3),
        "names": ["height", "width", "channels"],
    }
    features = {f"observation.images.{name}": picture for name in CAMERAS}
    features["observation.images.top_depth"] = {
        **picture,
        "shape": (HEIGHT, WIDTH, 1),
        "info": {"is_depth_map": True},
    }
    for name, size in (("observation.state", 8), ("action", 7)):
        features[name] = {"dtype": "float32", "shape": (size,), "names": [str(n) for n in range(size)]}
    dataset = LeRobotDataset.create("made/video", FPS, features, root=root)
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        scenes = [
            np.kron(rng.integers(0, 255, (HEIGHT // 16 + 20, WIDTH // 16 + 20, 3)), np.ones((16, 16, 1)))
            for _ in CAMERAS
        ]
        for step in range(steps):
            corner = 2 * step % 160
            seen = [scene[corner : corner + HEIGHT, corner : corner + WIDTH] for scene in scenes]
            frame = {
                f"observation.images.{name}": (pixels + rng.normal(0, 4, (HEIGHT, WIDTH, 1)))
                .clip(0, 255)
                .astype(np.uint8)
                for name, pixels in zip(CAMERAS, seen, strict=True)
            }
            frame["observation.images.top_depth"] = (0.5 + seen[0][..., :1] / 128).astype(np.float32)
            frame["observation.state"] = rng.normal(size=8).astype(np.float32)
            frame["action"] = rng.normal(size=7).astype(np.float32)
            dataset.add_frame({**frame, "task": "look around"})
        dataset.save_episode()
    dataset.finalize()


def read(root: Path) -> None:
    """Answers lines until there are no more."""
    torch.set_num_threads(1)
    chunk = {"action": [step / FPS for step in range(CHUNK)]}
    dataset = LeRobotDataset("made/video", root=root, delta_timestamps=chunk)
    for line in sys.stdin:
        asked = json.loads(line)
        if "look" in asked:
            item = dataset[asked["look"]]
            answer = {
                key: float(item[key].double().mean()) * (1e-3 if "depth" in key else 255)
                for key in dataset.meta.camera_keys
            }
        else:
            drawn = np.random.default_rng(asked["seed"]).integers(len(dataset), size=asked["count"]).tolist()
            wall, cpu = time.perf_counter(), time.process_time()
            for index in drawn:
                dataset[index]
            answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        read(Path(sys.argv[2]))
