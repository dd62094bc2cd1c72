"""What all verbs that train share: options made from TrainConfig, and how a run begins and ends."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tyro.conf import OmitArgPrefixes

from spatialvla.cli.dataset_options import DatasetOptions, FlatDatasetOptions
from spatialvla.cli.verb import Verb
from spatialvla.data.augmentation import Augmentation
from spatialvla.training.config import (
    DataOptions,
    LoggingOptions,
    ObjectiveOptions,
    OptimizationOptions,
    StartOptions,
    TrainConfig,
)
from spatialvla.training.guidance_config import Guidance

if TYPE_CHECKING:
    from spatialvla.training.loop import Rollout

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Verb):
    """A verb that trains. What is not given is as the recipe says, which is therefore what --help shows."""

    datasets: FlatDatasetOptions

    out: Path
    """Folder for checkpoints, metrics and the model, which comes to <out>/model."""

    resume: bool = False
    """Go on with the run in --out from its newest checkpoint; start it where there is none."""

    device: str = "auto"
    """cpu, cuda, cuda:1 …; auto is the GPU if there is one."""

    data: OmitArgPrefixes[DataOptions]
    start: OmitArgPrefixes[StartOptions]
    objective: OmitArgPrefixes[ObjectiveOptions]
    optimization: OmitArgPrefixes[OptimizationOptions]
    logging: OmitArgPrefixes[LoggingOptions]
    augmentation: Augmentation
    guidance: Guidance

    @property
    @abstractmethod
    def recipe(self) -> TrainConfig:
        """The configuration that the options change."""

    def changes(self) -> dict[str, Any]:
        """What the options say, by the fields of TrainConfig."""
        groups = (self.data, self.start, self.objective, self.optimization, self.logging)
        changes = {name: value for group in groups for name, value in vars(group).items()}
        return changes | {"out": self.out, "augmentation": self.augmentation, "guidance": self.guidance}

    def run(self) -> None:
        """Trains, says where the model is, and exits with STOPPED where the run was told to stop."""
        from rich.console import Console

        from spatialvla.training.loop import train
        from spatialvla.training.run.stopping import STOPPED
        from spatialvla.training.step import NonFiniteLoss

        config = replace(self.recipe, datasets=self.datasets.configurations(), **self.changes())
        console = Console(stderr=True)
        rollout = None
        if config.rollout_suite is not None:
            from spatialvla.evaluation.benchmarks.registry import check_suite

            check_suite(config.rollout_suite)
            rollout = _rollout(config.rollout_suite, config.rollout_episodes)
        device = None if self.device == "auto" else self.device
        try:
            result = train(config, self.resume, device, console, rollout)
        except NonFiniteLoss as error:
            raise SystemExit(f"spatialvla: {error}") from None
        if result.model is None:
            console.print(
                f"Stopped at step {result.step}; go on with --resume --out {self.out}", highlight=False
            )
            sys.exit(STOPPED)
        console.print(f"Wrote {result.model}", highlight=False, soft_wrap=True)


def part(kind: type[T], config: TrainConfig) -> T:
    """Those values of a configuration that make up one group of options."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: getattr(config, name) for name in names})


def common_options(recipe: TrainConfig) -> dict[str, Any]:
    """The fields of TrainingRun as a recipe fills them."""
    return {
        "datasets": DatasetOptions(),
        "out": recipe.out,
        "data": part(DataOptions, recipe),
        "start": part(StartOptions, recipe),
        "objective": part(ObjectiveOptions, recipe),
        "optimization": part(OptimizationOptions, recipe),
        "logging": part(LoggingOptions, recipe),
        "augmentation": recipe.augmentation,
        "guidance": recipe.guidance,
    }


def _rollout(suite: str, episodes: int) -> Rollout:
    """Plays a few episodes of each task of a LIBERO suite; gives the success rate and its 95 % interval."""

    def play(folder: Path, out: Path) -> Mapping[str, float]:
        from spatialvla.actions.fitting import check_fit
        from spatialvla.evaluation.benchmarks.registry import benchmark_for
        from spatialvla.evaluation.play.runner import evaluate
        from spatialvla.evaluation.results.provenance import settings_of
        from spatialvla.policy import Policy

        policy = Policy.from_pretrained(folder)
        benchmark = benchmark_for(suite, policy.processor.image_size, policy.units)
        check_fit(policy.units, benchmark.takes, suite, unknown_units=True)
        results = evaluate(
            policy,
            suite,
            episodes,
            benchmark=benchmark,
            settings=settings_of(policy),
            out=out,
            videos=False,
        )
        low, high = results.total.interval
        return {"success": results.total.rate, "low": low, "high": high, "episodes": len(results.episodes)}

    return play
