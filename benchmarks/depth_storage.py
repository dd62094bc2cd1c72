"""What depth costs and keeps in a LeRobot dataset: images in millimeters beside 12-bit video.

    python benchmarks/depth_storage.py --dataset datasets/libero_spatial

Each way stores the dataset's own depth, and the same with the noise of a depth camera: 1.5 mm at a meter, growing
with the square of the distance, and 2 % holes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from spatialvla.data.lerobot import LeRobotDataset, LeRobotWriter
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.features import depth_feature

WAYS = {
    "images, whole millimeters": None,
    "video, log, 0.01 to 10 m": DepthQuantization(),
    "video, linear, 0.01 to 10 m": DepthQuantization(use_log=False),
    "video, linear, 0.01 to 4.105 m": DepthQuantization(depth_max=4.105, use_log=False),
}


def noisy(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Depth (T, H, W) in meters as a camera would measure it."""
    measured = depth + rng.normal(0, 1.5e-3, depth.shape) * depth**2
    return np.where(rng.random(depth.shape) < 0.02, 0, measured).astype(np.float32)


def measure(episodes: Sequence[np.ndarray], quantization: DepthQuantization | None) -> str:
    """A row: bytes and milliseconds a frame, and the error in millimeters."""
    with TemporaryDirectory() as folder:
        root, count = Path(folder) / "d", sum(map(len, episodes))
        writer = LeRobotWriter(root, 20, [depth_feature("depth", episodes[0].shape[1:], quantization)])
        began = time.perf_counter()
        for depth in episodes:
            writer.add_episode({"depth": depth}, "look")
        writer.finalize()
        writing = (time.perf_counter() - began) / count
        kept = "data" if quantization is None else "videos"
        size = sum(path.stat().st_size for path in (root / kept).rglob("*") if path.is_file()) / count
        dataset = LeRobotDataset(root)
        began = time.perf_counter()
        read = [episode.frames("depth") for episode in dataset]
        whole = (time.perf_counter() - began) / count
        single, steps = 0.0, np.random.default_rng(0)
        for _ in range(50):
            episode = dataset.episode(int(steps.integers(len(dataset))))
            step = int(steps.integers(len(episode)))
            began = time.perf_counter()
            episode.frames("depth", [step])
            single += (time.perf_counter() - began) / 50
    pixels, stored = (np.concatenate([part.ravel() for part in parts]) for parts in (episodes, read))
    errors = np.abs(pixels - stored)[pixels > 0] * 1e3
    times = " | ".join(f"{seconds * 1e3:.2f}" for seconds in (writing, whole, single))
    return f"{size / 1024:.1f} | {times} | {errors.mean():.2f} | {errors.max():.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True, help="LeRobot folder with one depth feature")
    parser.add_argument("--episodes", type=int, default=10)
    arguments = parser.parse_args()
    dataset = LeRobotDataset(arguments.dataset)
    key = next(name for name, feature in dataset.features.items() if feature.is_depth)
    rendered = [dataset.episode(index).frames(key) for index in range(min(len(dataset), arguments.episodes))]
    rng = np.random.default_rng(0)
    measured = [noisy(depth, rng) for depth in rendered]
    print("| depth | stored as | KiB | write, ms | read all, ms | read one, ms | error, mm | largest, mm |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, episodes in (("as it is", rendered), ("with noise", measured)):
        for way, quantization in WAYS.items():
            print(f"| {name} | {way} | {measure(episodes, quantization)} |", flush=True)


if __name__ == "__main__":
    main()
