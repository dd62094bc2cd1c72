"""What the ablations share: a policy's errors on held-out episodes, its rollouts, and intervals of both for a table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import evaluation_batches
from spatialvla.data.samples import ReadOptions
from spatialvla.data.sources import open_source
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.intervals import wilson_interval
from spatialvla.evaluation.results.provenance import hash_checkpoint, settings_of
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.policy import Policy
from spatialvla.processor import Processor
from spatialvla.training.metrics import prompts_of

SEED = 0
"""Of training, and of which episodes are held out."""

PARTS = ("translation", "rotation", "gripper")
RESAMPLES = 2_000

Errors = dict[str, dict[str, list[float]]]
"""Episode -> part of an action -> absolute error of each sample, mean over its chunk."""


def without_ego3d(start: str | Path, folder: Path) -> Path:
    """The start with its position encoding taken out, in a folder."""
    if not (folder / "config.json").exists():
        whole = SpatialVLA.from_pretrained(start)
        blind = SpatialVLA(whole.config.replace(use_vision_zoe=False))
        kept = {name: t for name, t in whole.state_dict().items() if name in blind.state_dict()}
        blind.load_state_dict(kept)
        Processor.from_pretrained(start).save_pretrained(folder)
        blind.save_pretrained(folder)
    return folder


@torch.no_grad()
def measured(folder: Path, dataset: str, held_out: float, frames: int) -> Errors:
    """Errors of freely generated actions: translation and rotation in the dataset's units, the gripper's 0 or 1."""
    model, processor = SpatialVLA.from_pretrained(folder), Processor.from_pretrained(folder)
    mixture = TrainingMixture.open([open_source(dataset)], held_out=held_out, seed=SEED)
    read = ReadOptions(Augmentation.off(), extrinsics=model.config.needs_extrinsics)
    errors: Errors = {}
    for loaded in evaluation_batches(mixture, processor, 32, frames, read):
        tokens = model.generate(prompts_of(loaded.batch))
        error = np.abs(processor.decode(tokens, [mixture.keys[0]] * len(loaded.batch)) - loaded.actions)
        for name, one in zip(loaded.names, error, strict=True):
            episode = errors.setdefault(name.rpartition(" step ")[0], {})
            for part, values in zip(PARTS, (one[:, :3], one[:, 3:6], one[:, 6] > 0.5), strict=True):
                episode.setdefault(part, []).append(float(values.mean()))
    return errors


def interval(errors: Errors, part: str) -> tuple[float, float, float]:
    """Mean over samples, and the 95 % interval of a bootstrap over episodes, whose samples are not independent."""
    sums = np.array([sum(episode[part]) for episode in errors.values()])
    counts = np.array([len(episode[part]) for episode in errors.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def play(
    folder: Path, suite: str, episodes_per_task: int, tasks: list[int] | None = None, workers: int = 2
) -> Results:
    """Rollouts of a row's model from stored start states, in <folder>/rollouts; those that were interrupted go on."""
    from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark

    torch.set_num_threads(1)  # the simulators have the other cores
    policy = Policy.from_pretrained(folder / "model")
    return evaluate(
        policy,
        suite,
        episodes_per_task,
        benchmark=LiberoBenchmark(),
        settings=settings_of(policy),
        out=folder / "rollouts",
        workers=workers,
        tasks=tasks,
        name=folder.name,
        checkpoint=hash_checkpoint(folder / "model"),
        videos=False,
    )


def played(folder: Path) -> Results | None:
    """The complete rollouts of a row, if there are any."""
    path = folder / "rollouts" / "results.json"
    results = Results.load(path) if path.exists() else None
    return results if results and results.complete else None


def success(outcomes: Collection[bool]) -> str:
    """Successes and their 95 % interval as a cell of a table."""
    if not outcomes:
        return "–"
    successes, trials = sum(outcomes), len(outcomes)
    low, high = wilson_interval(successes, trials)
    return f"{successes}/{trials} ({low:.0%} – {high:.0%})"
