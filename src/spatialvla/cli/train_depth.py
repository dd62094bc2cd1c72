"""`spatialvla train-depth`: the small depth estimator that `train` then freezes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatialvla.cli.verb import Verb


@dataclass(frozen=True)
class TrainDepth(Verb):
    """Train the small depth estimator that `train` then freezes.

    The dataset must have depth; the weights go to <out>/model.safetensors.
    """

    dataset: str
    """A LeRobot dataset with depth: its folder, or its name in LeRobot's cache."""

    out: Path
    """Folder for model.safetensors, to pass to `train --depth-weights`."""

    preset: str = "nano"
    """Whose depth estimator."""

    minutes: float = 10.0
    """End after so much time."""

    camera: str | None = None
    """The RGB feature to look through; needed where there are several."""

    device: str | None = None
    """cpu, cuda, cuda:1 …; the GPU if there is one."""

    def run(self) -> None:
        from rich.console import Console

        from spatialvla.data.lerobot.location import find_dataset
        from spatialvla.training.depth_estimator import DepthConfig, train_depth

        console = Console(stderr=True)
        config = DepthConfig(
            find_dataset(self.dataset), self.out, camera=self.camera, preset=self.preset, minutes=self.minutes
        )
        quality = train_depth(config, self.device, console)
        console.print(
            f"Wrote {self.out}: mean relative error {quality.abs_rel:.1%}, {quality.delta1:.1%} of the pixels within "
            f"a factor of 1.25, mean error {quality.l1:.3f} m on held-out episodes",
            highlight=False,
            soft_wrap=True,
        )
