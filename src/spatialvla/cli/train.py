"""`spatialvla train`: a small policy from demonstrations, from random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatialvla.cli.run_options import RunOptions
from spatialvla.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Train(RunOptions):
    """Train a small policy from scratch.

    Options left out follow the recipe.
    """

    dataset: str
    """A LeRobot dataset: its folder, or its name in LeRobot's cache."""

    preset: str = "nano"
    """Recipe: the size of the network and how it is trained."""

    out: Path = Path("runs/train-nano")
    """Folder for checkpoints, metrics and the model, which comes to <out>/model."""

    policy: str | None = None
    """Folder or Hub id to start from instead of random weights."""

    depth_weights: Path | None = None
    """Folder of a trained depth estimator, loaded and frozen."""

    camera: str | None = None
    """The RGB feature to look through; needed where there are several."""

    def run(self) -> None:
        from spatialvla.training.config import DatasetConfig
        from spatialvla.training.recipes import RECIPES

        if self.preset not in RECIPES:
            raise InputError(f"there is no recipe {self.preset!r}; choose from {', '.join(RECIPES)}")
        dataset = DatasetConfig(self.dataset, camera=self.camera)
        self.carry_out(RECIPES[self.preset]([dataset], self.out, **self.changes()))
