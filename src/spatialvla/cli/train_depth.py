"""`spatialvla train-depth`: the small depth estimator that `train` then freezes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from spatialvla.cli.verb import Verb
from spatialvla.training.depth_config import DepthConfig


@dataclass(frozen=True)
class TrainDepth(Verb):
    """Train the small depth estimator that `train` then freezes.

    The datasets must have depth; the weights go to <out>/model.safetensors.
    """

    config: Annotated[DepthConfig, arg(name="")]

    device: str = "auto"
    """cpu, cuda, cuda:1 …; auto is the GPU if there is one."""

    def run(self) -> None:
        """Trains, and prints how good the estimates are."""
        from spatialvla.common.terminal import Terminal
        from spatialvla.training.depth_estimator import train_depth

        console = Terminal(stderr=True)
        quality = train_depth(self.config, None if self.device == "auto" else self.device, console)
        console.print(
            f"Wrote {self.config.out}. On held-out episodes the mean relative error is {quality.abs_rel:.1%}, "
            f"{quality.delta1:.1%} of the pixels are within a factor of 1.25, and the mean error is "
            f"{quality.l1:.3f} m.",
            highlight=False,
            soft_wrap=True,
        )
