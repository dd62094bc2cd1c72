"""`spatialvla pretrain`: SpatialVLA from PaliGemma 2 and ZoeDepth, on mixtures of any size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from spatialvla.cli.run_options import DatasetOptions, RunOptions


@dataclass(frozen=True, kw_only=True)
class Pretrain(RunOptions):
    """Pre-train on mixtures of any size, on many GPUs.

    Start it with torchrun. Options left out follow the published recipe.
    """

    data: Annotated[DatasetOptions, arg(name="")]

    out: Path = Path("runs/pretrain")
    """Folder for checkpoints, metrics and the model, which comes to <out>/model."""

    paligemma: str | None = None
    """Folder or Hub id of a PaliGemma 2 to start from; random weights of --preset without it."""

    zoedepth: str | None = None
    """Folder or Hub id of the ZoeDepth that goes with it."""

    preset: str | None = None
    """Size of a network with random weights: 4b or nano."""

    depth_weights: Path | None = None
    """Folder of a trained depth estimator for a network with random weights."""

    min_sigma: float | None = None
    """Floor of the deviations of the action grid's Gaussians."""

    def run(self) -> None:
        from spatialvla.training.recipes import pretrain

        self.carry_out(pretrain(self.data.references(), self.out, **self.changes()))
