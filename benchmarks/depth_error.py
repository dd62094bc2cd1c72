"""How far depth estimators are off on the recorded depth of a dataset, camera by camera.

spatialvla record --suite libero_object --episodes-per-task 1 --wrist --out datasets/object
python benchmarks/depth_error.py --dataset datasets/object --depth-weights nano runs/depth
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from spatialvla.data.lerobot import LeRobotDataset
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.start.build import load_depth


@dataclass(frozen=True)
class Options:
    dataset: Path
    depth_weights: tuple[Path, ...] = (Path("nano"),)
    cameras: tuple[str, ...] = ("agentview", "wrist")
    every: int = 15  # frames of an episode
    nearest: float = 0.01  # meters; what is nearer counts as not measured


def main(options: Options) -> None:
    data = LeRobotDataset(options.dataset)
    episodes = [data.episode(index) for index in range(len(data))]
    estimator = SpatialVLA.from_pretrained("nano").eval().vision_zoe_model
    print("| estimator | camera | frames | mean relative error |\n|---|---|---:|---:|")
    for weights in options.depth_weights:
        load_depth(estimator, weights)
        for camera in options.cameras:
            errors, frames = [], 0
            for episode in episodes:
                images = episode.frames(f"observation.images.{camera}")[:: options.every]
                depth = episode.frames(f"observation.depth.{camera}")[:: options.every].astype(np.float32)
                pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
                with torch.no_grad():
                    estimate = estimator.estimate(pixels).numpy()
                measured = depth > options.nearest
                errors.append(np.abs(estimate - depth)[measured] / depth[measured])
                frames += len(images)
            print(
                f"| {weights} | {camera} | {frames} | {100 * np.concatenate(errors).mean():.1f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Options))
