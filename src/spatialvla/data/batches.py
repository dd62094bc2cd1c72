"""Draws -> batches: frames read and augmented, and the actions from them on, as a function of the draws' numbers."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from spatialvla.batch import GIVEN, Batch
from spatialvla.common.worker_signals import leave_signals, signals_held_back
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.draws import Drawing, Draws, ShardedSampler
from spatialvla.data.episodes import Episode
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.data.samples import ReadOptions, Sample, SampleReader
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError
from spatialvla.processor import Processor

_MOST_REPLACEMENTS = 100
_AHEAD = 4
"""Batches that each worker makes ahead: they come in order, and one worker's delay shall not stop the others."""

_SEARCHED, _MOST_SEARCHED = 256, 1 << 18
"""Draws looked at in one go for one of the same dataset, at first and at most."""


class Batches(Dataset[LoadedBatch | CheckpointError | InputError]):
    """The batch of any draw numbers, a function of the numbers alone; can be sent to other processes."""

    def __init__(
        self,
        mixture: TrainingMixture,
        draws: Drawing,
        processor: Processor,
        options: ReadOptions,
        recent: int = 16,
    ) -> None:
        """draws: from the mixture's sources. recent: episodes kept parsed, a process."""
        # Not the mixture itself: what it knows of the datasets' actions need not travel.
        self.sources, self.seed = mixture.sources, mixture.seed
        self.missing_instruction = mixture.missing_instruction
        self.draws, self.processor, self.options, self.recent = draws, processor, options, recent
        self._begin()

    def __getitem__(self, numbers: Sequence[int]) -> LoadedBatch | CheckpointError | InputError:
        """Errors of users' data are returned: so they cross to the main process unchanged."""
        try:
            return self.batch(numbers)
        except (CheckpointError, InputError) as error:
            return error

    def batch(self, numbers: Sequence[int]) -> LoadedBatch:
        """The samples of these draws.

        Raises CheckpointError, naming the file, for a damaged sample, or too many of them one after another, and
        InputError where the processor cannot use one.
        """
        self._reopen_after_fork()
        draws = self.draws(np.asarray(numbers))
        samples = list(
            self._map(lambda row: self._sample_or_next(numbers[row], draws, row), range(len(numbers)))
        )
        keys = [self.sources[source].key for source in draws.source]
        return collated(self.processor, samples, keys, draws.source)

    def __getstate__(self) -> dict[str, Any]:
        ours = ("_episodes", "_lock", "_map", "_process")
        return {name: value for name, value in vars(self).items() if name not in ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def _begin(self) -> None:
        """What each process has of its own. Threads wait for storage; what they compute runs one after another."""
        self._episodes: OrderedDict[tuple[int, int, bool], Episode] = OrderedDict()
        self._lock, self._process = Lock(), os.getpid()
        at_once = self.options.at_once
        self._map: Any = ThreadPoolExecutor(at_once).map if at_once > 1 else map

    def _reopen_after_fork(self) -> None:
        """Connections and decoders do not survive a fork; sources open anew where they are unpickled."""
        if self._process != os.getpid():
            self.sources, self.options = pickle.loads(pickle.dumps((self.sources, self.options)))
            self._begin()

    def _sample_or_next(self, number: int, draws: Draws, row: int) -> Sample:
        source = int(draws.source[row])
        reasons: list[str] = []
        for episode, start in self._candidates(number, draws, row):
            try:
                return self._sample(number, source, episode, start, tuple(reasons))
            except CheckpointError as error:
                if self.options.on_bad == "raise":
                    raise
                reasons.append(str(error))
                if len(reasons) > _MOST_REPLACEMENTS:
                    break
        raise CheckpointError(
            f"{len(reasons)} samples of {self.sources[source].key} one after another are damaged, "
            f"the first: {reasons[0]}"
        )

    def _candidates(self, number: int, draws: Draws, row: int) -> Iterator[tuple[int, int]]:
        """Episode and start of a draw, and those of the following draws of its dataset."""
        yield int(draws.episode[row]), int(draws.start[row])
        first, many = number + 1, _SEARCHED
        while True:
            following = self.draws(np.arange(first, first + many))
            for other in np.flatnonzero(following.source == draws.source[row]).tolist():
                yield int(following.episode[other]), int(following.start[other])
            first, many = first + many, min(2 * many, _MOST_SEARCHED)

    def _sample(self, number: int, source: int, index: int, start: int, replaced: tuple[str, ...]) -> Sample:
        # Of the draw, not of the sample: the same one looks different each time.
        rng = np.random.default_rng([self.seed, number])
        is_other = self.options.other_share > 0 and rng.random() < self.options.other_share
        episode, key = self._episode(source, index, is_other), self.sources[source].key
        if start >= len(episode.starts):
            raise CheckpointError(
                f"{key} episode {index} has changed since it was surveyed; survey it again."
            )
        step = int(episode.starts[start])
        reader = SampleReader(self.processor, self.options, key, step, rng)
        return reader.sample(episode, index, self.missing_instruction or "", replaced)

    def _episode(self, source: int, index: int, is_other: bool) -> Episode:
        wanted = (source, index, is_other)
        episode = self._episodes.get(wanted)
        if episode is None:
            sources = self.options.other_sources if is_other else self.sources
            episode = sources[source].episode(index)
        with self._lock:
            self._episodes[wanted] = episode
            self._episodes.move_to_end(wanted)
            if len(self._episodes) > self.recent:
                self._episodes.popitem(last=False)
        return episode


def collated(
    processor: Processor, samples: Sequence[Sample], keys: Sequence[str], source: np.ndarray
) -> LoadedBatch:
    """Samples -> the batch to learn from. keys, source: name and number of each sample's dataset.

    Raises InputError where the processor cannot use one.
    """
    actions = np.stack([sample.actions for sample in samples])
    batch = processor(
        [None] * len(samples),
        [sample.prompt for sample in samples],
        keys,
        other_views=[sample.views for sample in samples],
        states=[sample.state for sample in samples],
        actions=actions,
        as_bytes=True,  # a quarter of the memory that goes from a worker to its run
    )
    planned = np.array([sample.planned for sample in samples])
    return LoadedBatch(
        batch=_up_to(planned, batch, processor),
        actions=actions,
        keys=tuple(keys),
        source=source,
        episode=np.array([sample.episode for sample in samples]),
        step=np.array([sample.step for sample in samples]),
        replaced=tuple(next(iter(sample.replaced), "") for sample in samples),
        cameras=tuple(
            name for name in processor.camera_names if any(name in sample.views for sample in samples)
        ),
    )


def _up_to(planned: np.ndarray, batch: Batch, processor: Processor) -> Batch:
    """A batch in which no loss is taken on what lies behind the first `planned` (B,) steps of each chunk."""
    assert batch.labels is not None
    behind = np.arange(processor.action_chunk_size) >= planned[:, None]
    if not behind.any():
        return batch
    hidden = torch.from_numpy(np.repeat(behind, 3, axis=1))
    is_action = batch.is_action(processor.action_token_begin_idx)
    tokens = batch.labels[is_action].view(hidden.shape)
    return replace(batch, labels=batch.labels.masked_scatter(is_action, tokens.masked_fill(hidden, GIVEN)))


def training_batches(
    mixture: TrainingMixture,
    processor: Processor,
    batch_size: int,
    options: ReadOptions | None = None,
    *,
    rank: int = 0,
    ranks: int = 1,
    workers: int = 0,
    first_step: int = 0,
    start_method: str | None = None,
) -> Iterator[LoadedBatch]:
    """Batches of `batch_size` samples of this rank, without end, made ahead by worker processes where there are some.

    Each is a function of its step: so they go on exactly from any step, with any number of workers, and any number of
    ranks that share the same global batch. options: the published augmentation unless given. first_step: steps done
    before. start_method: of the workers, the platform's unless given.
    Raises CheckpointError or InputError, naming the file, for data that cannot be used.
    """
    batches = Batches(mixture, mixture.training, processor, options or ReadOptions(Augmentation()))
    return _loaded(batches, ShardedSampler(batch_size, rank, ranks, first_step), workers, start_method)


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
    options = replace(
        options, augmentation=Augmentation.off(), other_share=0.0, camera_dropout=0.0, state_dropout=0.0
    )
    parts = [list(numbers[start : start + batch_size]) for start in range(0, len(numbers), batch_size)]
    return _loaded(Batches(mixture, draws, processor, options), parts, workers)


def _loaded(
    batches: Batches, numbers: Iterable[list[int]], workers: int, start_method: str | None = None
) -> Iterator[LoadedBatch]:
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        collate_fn=_as_it_is,
        multiprocessing_context=start_method if workers else None,
        worker_init_fn=leave_signals,
        # It draws a seed for its workers, which they don't use: not from the run's own random numbers.
        generator=torch.Generator(),
    )
    with signals_held_back():
        loaded = iter(loader)
    for batch in loaded:
        if isinstance(batch, Exception):
            raise batch
        yield replace(batch, batch=batch.batch.in_unit_range())


def _as_it_is(batch: Any) -> Any:
    return batch
