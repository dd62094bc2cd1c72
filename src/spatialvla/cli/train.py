"""`spatialvla train`: a policy from a dataset of demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spatialvla.errors import InputError


@dataclass(frozen=True)
class Train:
    """Train on a LeRobot dataset; writes the policy to <out>/model. Options left out follow the recipe."""

    dataset: str
    """A LeRobot dataset: its folder, or its name in LeRobot's cache."""

    preset: str = "nano"
    """Recipe: the size of the network and how it is trained."""

    out: Path | None = None
    """Folder for checkpoints, metrics (TensorBoard, too) and the model; runs/train-<preset> unless given."""

    resume: bool = False
    """Go on with the run in --out from its newest checkpoint."""

    device: str | None = None
    """cpu, cuda, cuda:1 …; the GPU if there is one."""

    initial: str | None = None
    """Folder or Hub id to start from instead of random weights."""

    depth_weights: Path | None = None
    """Folder of a trained depth estimator, loaded and frozen."""

    depth: Literal["estimate", "sensor"] | None = None
    """Which depth the model sees: its estimator's or the dataset's."""

    camera: str | None = None
    """The RGB feature to look through; needed where there are several."""

    minutes: float | None = None
    """End after so much time."""

    steps: int | None = None
    """End after so many steps."""

    batch_size: int | None = None
    """Samples a step."""

    learning_rate: float | None = None
    """Peak learning rate."""

    seed: int | None = None
    """Of weights, shuffling and augmentation."""

    def run(self) -> None:
        from rich.console import Console

        from spatialvla.data.lerobot.location import find_dataset
        from spatialvla.training.config import RECIPES
        from spatialvla.training.loop import train

        if self.preset not in RECIPES:
            raise InputError(f"there is no recipe {self.preset!r}; choose from {', '.join(RECIPES)}")
        out = self.out or Path("runs") / f"train-{self.preset}"
        chosen = {
            "initial": self.initial,
            "depth_weights": self.depth_weights,
            "depth": self.depth,
            "camera": self.camera,
            "minutes": self.minutes,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
        }
        changes = {name: value for name, value in chosen.items() if value is not None}
        config = RECIPES[self.preset](find_dataset(self.dataset), out, **changes)
        console = Console(stderr=True)
        result = train(config, self.resume, self.device, console)
        if result.model is None:
            console.print(f"Stopped at step {result.step}; go on with --resume --out {out}", highlight=False)
        else:
            console.print(f"Wrote {result.model}", highlight=False, soft_wrap=True)
