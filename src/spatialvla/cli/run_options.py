"""The options of every verb that trains, and how a run ends on the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spatialvla.cli.verb import Verb
from spatialvla.errors import InputError

if TYPE_CHECKING:
    from spatialvla.training.config import DatasetConfig, TrainConfig
    from spatialvla.training.loop import Rollout


@dataclass(frozen=True, kw_only=True)
class RunOptions(Verb):
    """What any run can be told. Options left out follow the recipe."""

    out: Path
    """Folder for checkpoints, metrics and the model, which comes to <out>/model."""

    resume: bool = False
    """Go on with the run in --out from its newest checkpoint; start it where there is none."""

    device: str | None = None
    """cpu, cuda, cuda:1 …; the GPU if there is one."""

    depth: Literal["estimate", "sensor"] | None = None
    """Which depth the model sees: its estimator's or the dataset's."""

    mask: Literal["prefix", "causal"] | None = None
    """Whether the prompt sees itself both ways."""

    committed_steps: int | None = None
    """Give up to so many first steps of a chunk as already under way; 0 gives none."""

    committed_share: float | None = None
    """Fraction of the samples that such steps are given to."""

    committed_jitter: float | None = None
    """Probability that a coordinate of such a step is a neighbouring cell's."""

    minutes: float | None = None
    """End after so much time."""

    steps: int | None = None
    """End after so many steps."""

    batch_size: int | None = None
    """Samples a step, over all processes."""

    accumulation: int | None = None
    """Parts in which each process goes through its share of a batch."""

    learning_rate: float | None = None
    """Peak learning rate."""

    warmup: float | None = None
    """Fraction of the run in which the rate rises."""

    schedule: Literal["cosine", "linear"] | None = None
    """How the rate falls afterwards."""

    weight_decay: float | None = None
    """Of matrices; norms, biases and embeddings do not decay."""

    clip_norm: float | None = None
    """Largest norm of the gradients."""

    ema_decay: float | None = None
    """Of an average of the weights that is evaluated and exported; 0 keeps none."""

    precision: Literal["auto", "bf16", "fp32"] | None = None
    """Of matrix products; weights are kept in float32."""

    activation_checkpointing: bool | None = None
    """Compute activations again in the backward pass instead of keeping them."""

    compile: bool = False
    """Let torch compile the layers: minutes at the start, and faster steps on a GPU."""

    seed: int | None = None
    """Of weights, shuffling and augmentation."""

    held_out: float | None = None
    """Fraction of the episodes to validate on."""

    workers: int | None = None
    """Processes that decode images, for each process that trains."""

    cache: Path | None = None
    """Folder for what is decoded or counted once."""

    on_bad: Literal["raise", "skip"] | None = None
    """Whether a damaged episode ends the run, or is skipped and counted."""

    skip_bad_batches: bool = False
    """Leave out steps whose loss is no number, and count them."""

    missing_instruction: str | None = None
    """What to say where an episode has no instruction; such episodes are left out unless this is given."""

    log_every: int | None = None
    """Steps between lines of metrics.jsonl."""

    eval_every: int | None = None
    """Steps between validations."""

    save_every: int | None = None
    """Steps between checkpoints."""

    keep: int | None = None
    """Checkpoints to keep."""

    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] | None = None
    """Where metrics are written besides metrics.jsonl."""

    rollout_suite: str | None = None
    """Play this LIBERO suite now and then (needs the libero extra)."""

    rollout_every: int | None = None
    """Steps between these."""

    rollout_episodes: int | None = None
    """Episodes of each task."""

    def changes(self) -> dict[str, Any]:
        """What was given, by the fields of TrainConfig."""
        from spatialvla.training.config import TrainConfig

        known = {field.name for field in fields(TrainConfig)} - {"output", "datasets"}
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name in known}
        return {name: value for name, value in given.items() if value is not None}

    def carry_out(self, config: TrainConfig) -> None:
        """Trains, says where the model is, and exits with STOPPED where the run was told to stop."""
        from rich.console import Console

        from spatialvla.training.loop import NonFiniteLoss, train
        from spatialvla.training.run.stopping import STOPPED

        console = Console(stderr=True)
        rollout = (
            None if config.rollout_suite is None else _rollout(config.rollout_suite, config.rollout_episodes)
        )
        try:
            result = train(config, self.resume, self.device, console, rollout)
        except NonFiniteLoss as error:
            raise SystemExit(f"spatialvla: {error}") from None
        if result.model is None:
            console.print(
                f"Stopped at step {result.step}; go on with --resume --out {self.out}", highlight=False
            )
            sys.exit(STOPPED)
        console.print(f"Wrote {result.model}", highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Which datasets to train on."""

    dataset: tuple[str, ...] = ()
    """Folders, URLs or Hub ids of RLDS, LeRobot or RH20T datasets."""

    weights: tuple[float, ...] = ()
    """How often each sample of each dataset is drawn an epoch; 1 unless given."""

    mapping: tuple[Path, ...] = ()
    """YAML files that say what the features of LeRobot datasets mean: one, or one for each dataset."""

    mixture: str | None = None
    """A published mixture of Open X-Embodiment datasets, such as oxe_spatial_vla_plus, instead of --dataset."""

    root: str | None = None
    """Folder or URL that holds the mixture's datasets, one folder each."""

    def references(self) -> list[DatasetConfig]:
        """Raises InputError where the numbers of options do not match, or nothing is named."""
        from spatialvla.data.oxe.mixtures import mixture
        from spatialvla.training.config import DatasetConfig

        if self.mixture is not None:
            if self.dataset or self.root is None:
                raise InputError("a --mixture takes its datasets from --root; leave --dataset out")
            root = self.root.rstrip("/")
            return [DatasetConfig(f"{root}/{name}", weight) for name, weight in mixture(self.mixture).items()]
        if not self.dataset:
            raise InputError("there is nothing to train on; give --dataset, or --mixture and --root")
        count = len(self.dataset)
        weights = self.weights or (1.0,) * count
        mappings: Sequence[Path | None] = self.mapping * count if len(self.mapping) == 1 else self.mapping
        mappings = mappings or [None] * count
        if len(weights) != count or len(mappings) != count:
            raise InputError(f"{count} datasets need as many --weights and --mapping, or none")
        return [
            DatasetConfig(path, weight, file)
            for path, weight, file in zip(self.dataset, weights, mappings, strict=True)
        ]


def _rollout(suite: str, episodes: int) -> Rollout:
    """Plays a few episodes of each task of a LIBERO suite; gives the success rate and its 95 % interval."""

    def play(folder: Path, out: Path) -> Mapping[str, float]:
        from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
        from spatialvla.evaluation.play.policy_settings import settings_of
        from spatialvla.evaluation.play.runner import evaluate
        from spatialvla.policy import Policy

        policy = Policy.from_pretrained(folder)
        size = 128 if policy.processor.image_size <= 128 else 256
        results = evaluate(
            policy,
            suite,
            episodes,
            benchmark=LiberoBenchmark(size),
            settings=settings_of(policy),
            out=out,
            videos=False,
        )
        low, high = results.total.interval
        return {"success": results.total.rate, "low": low, "high": high, "episodes": len(results.episodes)}

    return play
