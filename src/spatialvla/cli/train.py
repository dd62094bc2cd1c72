"""`spatialvla train`: a small policy from demonstrations, from random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from tyro.conf import OmitArgPrefixes

from spatialvla.actions.bins import Bins
from spatialvla.cli.training_run import TrainingRun, common_options, part
from spatialvla.training.config import TrainConfig
from spatialvla.training.options import FineTuning, NetworkOptions
from spatialvla.training.recipes import nano


@dataclass(frozen=True, kw_only=True)
class Train(TrainingRun):
    """Train a small policy from scratch.

    The recipe is the shipped model's, for demonstrations as `spatialvla record` writes them.
    """

    network: OmitArgPrefixes[NetworkOptions]
    bins: Bins

    @classmethod
    def recipe(cls, mode: FineTuning | None, policy: str | None) -> TrainConfig:
        """The shipped small model's."""
        return nano(policy)

    @classmethod
    def options(cls, config: TrainConfig) -> Self:
        """Those of all runs, and a new network's."""
        return cls(**common_options(config), network=part(NetworkOptions, config), bins=config.bins)

    def changes(self, begun: TrainConfig) -> dict[str, Any]:
        """Those of all runs, and a new network's."""
        return super().changes(begun) | vars(self.network) | {"bins": self.bins}
