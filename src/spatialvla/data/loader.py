"""Batches made ahead in worker processes, for any rank, and a step from which to go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import Batches, LoadedBatch, ReadOptions
from spatialvla.data.draws import ShardedSampler
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError
from spatialvla.processor import Processor

_Loaded = LoadedBatch | CheckpointError | InputError


class TrainingLoader:
    """Endless batches of one rank. Its state is how many it has given: all else follows from the step.

    So it goes on exactly, whatever the workers have read ahead, with any number of them.
    """

    def __init__(
        self, batches: Batches, sampler: ShardedSampler, workers: int, start_method: str | None
    ) -> None:
        self.batches, self.sampler, self.workers = batches, sampler, workers
        self._start_method = start_method

    @property
    def step(self) -> int:
        """Batches given so far, over all runs."""
        return self.sampler.first_step

    def __iter__(self) -> Iterator[LoadedBatch]:
        """Raises CheckpointError or InputError, naming the file, for data that cannot be used."""
        loader = _loader(self.batches, self.sampler, self.workers, self._start_method)
        for batch in _checked(loader):
            self.sampler.first_step += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """What to go on from."""
        return {"step": self.step, "global_batch": self.sampler.batch_size * self.sampler.ranks}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises InputError for the state of a run with another global batch: its steps were others."""
        own = self.state_dict()
        if state["global_batch"] != own["global_batch"]:
            raise InputError(
                f"The run to go on with had a global batch of {state['global_batch']}, not {own['global_batch']}; "
                "keep ranks times batch size as it was."
            )
        self.sampler.first_step = state["step"]


def make_loader(
    mixture: TrainingMixture,
    processor: Processor,
    batch_size: int,
    options: ReadOptions | None = None,
    *,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    first_step: int = 0,
    recent: int = 16,
    start_method: str | None = None,
) -> TrainingLoader:
    """Training batches of `batch_size` samples of this rank, without end.

    options: the published augmentation unless given. first_step: steps given before. recent: as of `Batches`.
    start_method: of the workers, the platform's unless given.
    """
    batches = Batches(mixture, mixture.training, processor, options or ReadOptions(Augmentation()), recent)
    return TrainingLoader(batches, ShardedSampler(batch_size, rank, ranks, first_step), workers, start_method)


def evaluation_batches(
    mixture: TrainingMixture,
    processor: Processor,
    batch_size: int,
    limit: int,
    options: ReadOptions | None = None,
    *,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
) -> Iterator[LoadedBatch]:
    """At most `limit` held-out samples, once, evenly spaced and as they are; the same whenever it is called.

    Each of the `ranks` gets as many as the others; a remainder is left out.
    """
    draws = mixture.evaluation(limit)
    numbers = range(rank, len(draws) // ranks * ranks, ranks)
    options = options or ReadOptions(Augmentation.off())
    options = replace(options, augmentation=Augmentation.off(), other_share=0.0)
    batches = Batches(mixture, draws, processor, options)
    parts = [list(numbers[start : start + batch_size]) for start in range(0, len(numbers), batch_size)]
    return _checked(_loader(batches, parts, workers))


def _loader(
    batches: Batches, sampler: Iterable[list[int]], workers: int, start_method: str | None = None
) -> Iterable[_Loaded]:
    return DataLoader(
        batches,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context=start_method if workers else None,
        # It draws a seed for its workers, which they don't use: not from the run's own random numbers.
        generator=torch.Generator(),
    )


def _checked(batches: Iterable[_Loaded]) -> Iterator[LoadedBatch]:
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch
