"""What all verbs that train share: options made from TrainConfig, and how a run begins and ends."""

from __future__ import annotations

import shlex
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args

from tyro.conf import OmitArgPrefixes

from spatialvla.cli.arguments import gathered, parse_options, read_first
from spatialvla.cli.dataset_options import DatasetOptions, FlatDatasetOptions
from spatialvla.cli.verb import Verb
from spatialvla.data.augmentation import Augmentation
from spatialvla.errors import InputError
from spatialvla.training.config import TrainConfig
from spatialvla.training.config_file import kept_config, read_entries, with_entries, write_config
from spatialvla.training.guidance_config import Guidance
from spatialvla.training.options import (
    DataOptions,
    FineTuning,
    LoggingOptions,
    ObjectiveOptions,
    OptimizationOptions,
    StartOptions,
)

if TYPE_CHECKING:
    from spatialvla.training.loop import Rollout

T = TypeVar("T")


@dataclass(frozen=True)
class Start:
    """The options that all other values follow from; None is not given."""

    out: Path | None = None
    resume: bool = False
    config: Path | None = None
    policy: str | None = None
    mode: FineTuning | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Verb):
    """A verb that trains.

    What is not given is as the run in --out says where that is resumed, as the file of --config says, or as
    the recipe says; that is therefore what --help shows.
    """

    datasets: FlatDatasetOptions

    config: Path | None = None
    """YAML file of a configuration, in part or whole; None takes the recipe alone."""

    write_config: Path | None = None
    """Write the configuration to this YAML file, to be edited and run with --config, and train nothing."""

    out: Path
    """Folder for checkpoints, metrics and the model, which comes to <out>/model."""

    resume: bool = False
    """Go on with the run in --out as it was configured; start it where there is none."""

    device: str = "auto"
    """cpu, cuda, cuda:1 …; auto is the GPU if there is one."""

    data: OmitArgPrefixes[DataOptions]
    start: OmitArgPrefixes[StartOptions]
    objective: OmitArgPrefixes[ObjectiveOptions]
    optimization: OmitArgPrefixes[OptimizationOptions]
    logging: OmitArgPrefixes[LoggingOptions]
    augmentation: Augmentation
    guidance: Guidance

    @classmethod
    @abstractmethod
    def recipe(cls, mode: FineTuning | None, policy: str | None) -> TrainConfig:
        """The configuration that file and options change. mode, policy: where they are given."""

    @classmethod
    @abstractmethod
    def options(cls, config: TrainConfig) -> Self:
        """The verb whose options have a configuration's values."""

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """Reads first what the other values follow from."""
        arguments = gathered(arguments, "--add-camera")
        default = cls.options(cls.beginning(read_first(Start, arguments, program)))
        return parse_options(cls, arguments, program, default)

    @classmethod
    def beginning(cls, start: Start) -> TrainConfig:
        """The configuration before options change it.

        Raises InputError where a file of it cannot be read.
        """
        entries = {} if start.config is None else read_entries(start.config)
        told = {name: entries.get(name) for name in ("mode", "policy", "out")}
        mode = start.mode or next((mode for mode in get_args(FineTuning) if mode == told["mode"]), None)
        config = cls.recipe(mode, start.policy or (told["policy"] and str(told["policy"])))
        if start.resume:
            out = start.out or Path(str(told["out"] or config.out))
            config = kept_config(out) or config
            config = replace(config, out=out)
        return config if start.config is None else with_entries(config, entries, start.config)

    def configuration(self) -> TrainConfig:
        """What the run is made of, all things considered. Raises InputError for what does not fit."""
        start = Start(self.out, self.resume, self.config, self.start.policy, self.mode)
        begun = self.beginning(start)
        named = self.datasets != DatasetOptions()
        if named and begun.datasets and not (self.datasets.dataset or self.datasets.mixture):
            raise InputError(
                "Options such as --weights and --camera belong to what --dataset or --mixture names; name it, or "
                "edit the datasets in the configuration."
            )
        if self.resume and not (named or begun.datasets):
            raise InputError(
                f"{begun.out} holds no run to resume; give the run's folder as --out, or --dataset to begin a run."
            )
        if named or not (begun.datasets or self.write_config):
            begun = replace(begun, datasets=self.datasets.configurations())
        return replace(begun, **self.changes(begun))

    @property
    def mode(self) -> FineTuning | None:
        """That of fine-tuning, where the verb has one."""
        return None

    def changes(self, begun: TrainConfig) -> dict[str, Any]:
        """What the options say, by the fields of TrainConfig. begun: the configuration that they change."""
        groups = (self.data, self.start, self.objective, self.optimization, self.logging)
        changes = {name: value for group in groups for name, value in vars(group).items()}
        return changes | {"out": self.out, "augmentation": self.augmentation, "guidance": self.guidance}

    def run(self) -> None:
        """Trains, says where the model is, and exits with STOPPED where the run was told to stop."""
        from spatialvla.common.terminal import Terminal
        from spatialvla.training.bad_steps import NonFiniteLoss
        from spatialvla.training.loop import train
        from spatialvla.training.run.stopping import STOPPED

        config = self.configuration()
        console = Terminal(stderr=True)
        if self.write_config is not None:
            write_config(config, self.write_config)
            console.print(
                f"Wrote {self.write_config}; run it with --config {self.write_config}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            return
        rollout = None
        if config.rollout_suite is not None:
            from spatialvla.evaluation.benchmarks.registry import check_suite

            check_suite(config.rollout_suite, config.rollout_episodes)
            rollout = _rollout(config.rollout_suite, config.rollout_episodes)
        device = None if self.device == "auto" else self.device
        try:
            result = train(config, self.resume, device, console, rollout)
        except NonFiniteLoss as error:
            raise SystemExit(f"spatialvla: {error}") from None
        if result.model is None:
            again = f"spatialvla {type(self).__name__.lower()} --resume --out {shlex.quote(str(self.out))}"
            told = f"Stopped at step {result.step}; go on with {again}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)
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
        from spatialvla.evaluation.benchmarks.protocol import Inputs
        from spatialvla.evaluation.benchmarks.registry import benchmark_for
        from spatialvla.evaluation.play.runner import evaluate
        from spatialvla.evaluation.results.provenance import settings_of
        from spatialvla.policy import Policy

        policy = Policy.from_pretrained(folder, suite=suite)
        inputs = Inputs(policy.camera_names[1:], policy.state_names)
        benchmark = benchmark_for(suite, policy.processor.image_size, policy.units, inputs)
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
