"""Samples -> batches in worker processes, for any rank, and a step from which to go on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spatialvla.common.extras import needs_extra
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.mixture import ShardedSampler
from spatialvla.data.samples import DrawnSamples, LoadedSample, OnBadSample
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError
from spatialvla.processor import Processor
from spatialvla.types import Batch

with needs_extra("train", "Training"):
    from torchdata.stateful_dataloader import StatefulDataLoader


@dataclass(frozen=True)
class LoadedBatch:
    """What a training step gets.

    actions: (B, chunk, 7) in the datasets' units. source: (B,) int64 number of the dataset.
    names: of each sample, "<key> episode <i> step <t>". replaced: why samples were replaced by others.
    targets: (B, targets) float32 that an auxiliary head regresses, where there is one.
    """

    batch: Batch
    actions: np.ndarray
    source: np.ndarray
    names: tuple[str, ...]
    replaced: tuple[str, ...] = ()
    targets: torch.Tensor | None = None

    @property
    def label_count(self) -> int:
        """Tokens on which a loss is taken."""
        return 0 if self.batch.labels is None else int((self.batch.labels >= 0).sum())

    def split(self, parts: int) -> list[LoadedBatch]:
        """Equal parts, in order. Raises InputError where they cannot be equal."""
        size, rest = divmod(len(self.batch), parts)
        if rest:
            raise InputError(f"A batch of {len(self.batch)} cannot be split into {parts} equal parts.")
        return [self._rows(slice(start, start + size)) for start in range(0, len(self.batch), size)]

    def _rows(self, rows: slice) -> LoadedBatch:
        targets = None if self.targets is None else self.targets[rows]
        return LoadedBatch(
            self.batch[rows], self.actions[rows], self.source[rows], self.names[rows], self.replaced, targets
        )


@dataclass(frozen=True)
class Batches(Dataset[Any]):
    """The batch of any draw numbers. Errors of users' data are returned: they cross to the main process unchanged."""

    samples: DrawnSamples

    def __getitem__(self, numbers: Sequence[int]) -> LoadedBatch | CheckpointError | InputError:
        try:
            return collated(self.samples.__getitems__(numbers), self.samples.processor)
        except (CheckpointError, InputError) as error:
            return error


def collated(samples: Sequence[LoadedSample], processor: Processor) -> LoadedBatch:
    """Raises InputError where the processor cannot use a sample."""
    actions = np.stack([sample.actions for sample in samples])
    depth = [sample.depth for sample in samples if sample.depth is not None]
    batch = processor(
        [sample.image for sample in samples],
        [sample.prompt for sample in samples],
        [sample.key for sample in samples],
        intrinsics=[sample.intrinsics for sample in samples],
        depth=depth or None,
        actions=actions,
    )
    return LoadedBatch(
        batch=batch,
        actions=actions,
        source=np.array([sample.source for sample in samples]),
        names=tuple(sample.name for sample in samples),
        replaced=tuple(reason for sample in samples for reason in sample.replaced),
    )


class TrainingLoader(StatefulDataLoader[LoadedBatch]):
    """Endless batches of one rank. Its state is how many it has given: all else follows from the step.

    So it goes on exactly, whatever the workers have read ahead, with any number of them.
    """

    def __init__(self, samples: DrawnSamples, sampler: ShardedSampler, workers: int, **options: Any) -> None:
        with warnings.catch_warnings():
            # torchdata 0.11 tells torch 2.13 of its use in a way that is deprecated; no user can help it.
            warnings.filterwarnings("ignore", "'set_vital' is deprecated")
            super().__init__(
                Batches(samples),
                batch_size=None,
                sampler=sampler,
                num_workers=workers,
                collate_fn=_as_it_is,
                **options,
            )
        self._place = sampler

    @property
    def step(self) -> int:
        """Batches given so far, over all runs."""
        return self._place.first_step

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Raises CheckpointError or InputError, naming the place, for data that cannot be used."""
        for batch in _checked(super().__iter__()):
            self._place.first_step += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step, "global_batch": self._place.batch_size * self._place.ranks}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises InputError for the state of a run with another global batch: its steps were others."""
        own = self.state_dict()
        if state["global_batch"] != own["global_batch"]:
            raise InputError(
                f"The run to go on with had a global batch of {state['global_batch']}, not {own['global_batch']}; "
                "keep ranks times batch size as it was."
            )
        self._place.first_step = state["step"]


def make_loader(
    mixture: TrainingMixture,
    processor: Processor,
    batch_size: int,
    *,
    augmentation: Augmentation | None = None,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    depth: bool = False,
    on_bad: OnBadSample = "raise",
    recent: int = 16,
    start_method: str | None = None,
) -> TrainingLoader:
    """Augmented training batches of `batch_size` samples of this rank, without end.

    augmentation: the published one unless given. depth, on_bad, recent: as of DrawnSamples.
    start_method: of the workers, the platform's unless given.
    """
    samples = DrawnSamples(
        mixture.sources,
        mixture.training,
        processor,
        augmentation or Augmentation(),
        mixture.seed,
        depth,
        mixture.missing_instruction,
        on_bad,
        recent,
    )
    sampler = ShardedSampler(batch_size, rank, ranks)
    return TrainingLoader(
        samples, sampler, workers, multiprocessing_context=start_method if workers else None
    )


def evaluation_batches(
    mixture: TrainingMixture,
    processor: Processor,
    batch_size: int,
    limit: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    depth: bool = False,
    on_bad: OnBadSample = "raise",
) -> Iterator[LoadedBatch]:
    """At most `limit` held-out samples, once, evenly spaced and as they are; the same whenever it is called.

    Each of the `ranks` gets as many as the others; a remainder is left out.
    """
    draws = mixture.evaluation(limit)
    numbers = range(rank, len(draws) // ranks * ranks, ranks)
    samples = DrawnSamples(
        mixture.sources,
        draws,
        processor,
        Augmentation.off(),
        mixture.seed,
        depth,
        mixture.missing_instruction,
        on_bad,
    )
    batches = [list(numbers[start : start + batch_size]) for start in range(0, len(numbers), batch_size)]
    loader = DataLoader(
        Batches(samples), batch_size=None, sampler=batches, num_workers=workers, collate_fn=_as_it_is
    )
    return _checked(loader)


def _checked(batches: Iterable[Any]) -> Iterator[LoadedBatch]:
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch
