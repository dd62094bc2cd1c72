"""`spatialvla pretrain`: SpatialVLA from PaliGemma 2 and ZoeDepth, on mixtures of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tyro.conf import OmitArgPrefixes

from spatialvla.actions.bins import Bins
from spatialvla.cli.arguments import parse_options
from spatialvla.cli.training_run import TrainingRun, common_options, part
from spatialvla.training.config import NetworkOptions, TrainConfig
from spatialvla.training.recipes import pretrain


@dataclass(frozen=True, kw_only=True)
class Pretrain(TrainingRun):
    """Pre-train on mixtures of any size, on many GPUs.

    Start it with torchrun. The recipe is the published one.
    """

    network: OmitArgPrefixes[NetworkOptions]
    bins: Bins

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """Shows and takes the recipe's values."""
        recipe = pretrain()
        default = cls(**common_options(recipe), network=part(NetworkOptions, recipe), bins=recipe.bins)
        return parse_options(cls, arguments, program, default)

    @property
    def recipe(self) -> TrainConfig:
        """The published one."""
        return pretrain()

    def changes(self) -> dict[str, Any]:
        """Those of all runs, and a new network's."""
        return super().changes() | vars(self.network) | {"bins": self.bins}
