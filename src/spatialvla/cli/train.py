"""`spatialvla train`: a small policy from demonstrations, from random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tyro.conf import OmitArgPrefixes

from spatialvla.actions.bins import Bins
from spatialvla.cli.arguments import parse_options, read_first
from spatialvla.cli.training_run import TrainingRun, common_options, part
from spatialvla.training.config import NetworkOptions, TrainConfig
from spatialvla.training.recipes import nano


@dataclass(frozen=True)
class _Start:
    policy: str | None = None


@dataclass(frozen=True, kw_only=True)
class Train(TrainingRun):
    """Train a small policy from scratch.

    The recipe is the shipped model's, for demonstrations as `spatialvla record` writes them.
    """

    network: OmitArgPrefixes[NetworkOptions]
    bins: Bins

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """Reads --policy first, because the recipe depends on it."""
        start = read_first(_Start, arguments, program)
        recipe = nano(start.policy)
        default = cls(**common_options(recipe), network=part(NetworkOptions, recipe), bins=recipe.bins)
        return parse_options(cls, arguments, program, default)

    @property
    def recipe(self) -> TrainConfig:
        """The shipped small model's."""
        return nano(self.start.policy)

    def changes(self) -> dict[str, Any]:
        """Those of all runs, and a new network's."""
        return super().changes() | vars(self.network) | {"bins": self.bins}
