"""Which sample is drawn when: datasets weighted and shuffled, as a function of the draw's number alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from spatialvla.errors import InputError

_ROUNDS = 6  # of the Feistel network


@dataclass(frozen=True)
class Draws:
    """B samples.

    source, episode, start: (B,) int64 dataset, its episode, and number among its samples' starts.
    """

    source: np.ndarray
    episode: np.ndarray
    start: np.ndarray


Drawing = Callable[[np.ndarray], Draws]
"""Numbers (B,) of draws, counted from 0 -> these draws."""


class MixtureDraws:
    """Draws without end from several datasets; nothing is kept but where each episode's samples begin.

    In one epoch a dataset of n samples and weight w gives round(w n) draws, each of its samples as often as
    the others give or take one; the draws of all datasets are shuffled together, anew each epoch. Draw number
    i is a function of (counts, weights, seed, i), so any split over ranks and workers is without overlap or
    loss, and resuming needs i alone.
    """

    def __init__(self, counts: Sequence[np.ndarray], weights: Sequence[float], seed: int) -> None:
        """counts: samples of each episode, an array a dataset.

        Raises InputError where nothing can be drawn.
        """
        if len(counts) != len(weights) or any(weight < 0 or not np.isfinite(weight) for weight in weights):
            raise InputError(
                f"A mixture needs a weight of at least 0 for each of {len(counts)} datasets, not {weights}."
            )
        # Of all datasets one behind another: a batch from many of them is then looked up at once.
        self._ends = np.cumsum(np.concatenate([np.zeros(0, np.int64), *counts]), dtype=np.int64)
        self._first_episodes = np.cumsum([0, *map(len, counts)])
        self._first_samples = np.append(0, self._ends)[self._first_episodes]
        self.sizes = np.diff(self._first_samples)
        self.draws = np.round(self.sizes * np.asarray(weights)).astype(np.int64)
        if not self.draws.sum():
            raise InputError(
                "The mixture has no samples to draw; raise a weight or give a dataset with episodes."
            )
        self._first_draws = np.cumsum([0, *self.draws])
        self.seed = seed

    def __len__(self) -> int:
        """Draws an epoch."""
        return int(self._first_draws[-1])

    def __call__(self, numbers: np.ndarray) -> Draws:
        """The draws of these numbers (B,), counted from 0 over all epochs."""
        numbers = np.asarray(numbers, dtype=np.int64)
        epochs, slots = np.divmod(numbers, len(self))
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            slots[rows] = self._permutation(len(self), 0, int(epoch))(slots[rows])
        source = np.searchsorted(self._first_draws, slots, side="right") - 1
        # Counted over all epochs, so that a weight below 1 sees the whole dataset in time.
        draw = slots - self._first_draws[source] + epochs * self.draws[source]
        sample = self._first_samples[source] + self._samples(source, draw)
        row = np.searchsorted(self._ends, sample, side="right")
        start = sample - np.where(row > 0, self._ends[row - 1], 0)
        return Draws(source, row - self._first_episodes[source], start)

    def _samples(self, sources: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Each dataset's own shuffle: round after round through all its samples."""
        rounds, places = np.divmod(draws, self.sizes[sources])
        shuffles = [
            self._permutation(int(self.sizes[source]), source + 1, number)
            for source, number in zip(sources.tolist(), rounds.tolist(), strict=True)
        ]
        return permuted(places, shuffles)

    @lru_cache(maxsize=1024)  # noqa: B019 a mixture lives as long as its run
    def _permutation(self, size: int, stream: int, number: int) -> Permutation:
        return Permutation(size, self.seed, stream, number)


class EvenDraws:
    """Draws of at most `limit` samples, always the same, at even distances through each dataset."""

    def __init__(self, counts: Sequence[np.ndarray], limit: int) -> None:
        """counts: samples of each episode, an array a dataset."""
        sizes = np.array([part.sum() for part in counts], dtype=np.int64)
        shares = np.zeros_like(sizes)
        # From the smallest dataset on, so that what one cannot fill goes to the larger ones.
        for done, one in enumerate(np.argsort(sizes, kind="stable")):
            shares[one] = min(sizes[one], (limit - shares.sum()) // (len(sizes) - done))
        parts = []
        for one, (part, size, share) in enumerate(zip(counts, sizes, shares, strict=True)):
            samples = (np.arange(share) * size + size // 2) // max(share, 1)
            ends = np.cumsum(part)
            episode = np.searchsorted(ends, samples, side="right")
            parts.append((np.full(share, one), episode, samples - (ends - part)[episode]))
        self._source, self._episode, self._start = (
            np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)
        )

    def __len__(self) -> int:
        return len(self._source)

    def __call__(self, numbers: np.ndarray) -> Draws:
        """The draws of these numbers (B,); after the last comes the first."""
        rows = np.asarray(numbers) % len(self)
        return Draws(self._source[rows], self._episode[rows], self._start[rows])


class ShardedSampler:
    """The draws of one rank, step after step: an endless batch sampler for a DataLoader.

    A step is all there is to resume from, with any number of workers, and with any number of ranks that
    divides the same global batch.
    """

    def __init__(self, batch_size: int, rank: int = 0, ranks: int = 1, first_step: int = 0) -> None:
        """batch_size: of this rank. first_step: steps done before. Raises InputError for wrong numbers."""
        if batch_size < 1 or not 0 <= rank < ranks or first_step < 0:
            raise InputError(
                f"Cannot draw batches of {batch_size} as rank {rank} of {ranks} from step {first_step}."
            )
        self.batch_size, self.rank, self.ranks, self.first_step = batch_size, rank, ranks, first_step

    def numbers(self, step: int) -> np.ndarray:
        """(batch_size,) numbers of the draws that this rank takes in a step."""
        first = (step * self.ranks + self.rank) * self.batch_size
        return np.arange(first, first + self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first_step
        while True:
            yield self.numbers(step).tolist()
            step += 1


class Permutation:
    """A pseudo-random permutation of 0 … size - 1, given by its key alone.

    A Feistel network on the smallest even number of bits that covers `size`; a result beyond it is permuted
    again until it lies inside (cycle walking, Black & Rogaway 2002), less than four times in the mean.
    half: bits of each side of the network. keys: of its rounds.
    """

    def __init__(self, size: int, *key: int) -> None:
        self.size = size
        self.half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        self.keys = np.random.default_rng(key).integers(0, 2**63, _ROUNDS, dtype=np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """(N,) int64 places in [0, size) -> what stands there, (N,) int64."""
        return permuted(places, [self])


def permuted(places: np.ndarray, by: Sequence[Permutation]) -> np.ndarray:
    """(N,) int64 places -> what stands there, (N,) int64. by: a permutation for each, or one for all."""
    sizes, halves = (np.array([getattr(one, name) for one in by], np.uint64) for name in ("size", "half"))
    keys = np.stack([one.keys for one in by], axis=1)
    values = _mixed(np.asarray(places, np.uint64), halves, keys)
    while (outside := values >= sizes).any():
        of = outside if len(by) > 1 else slice(None)
        values[outside] = _mixed(values[outside], halves[of], keys[:, of])
    return values.astype(np.int64)


def _mixed(values: np.ndarray, halves: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """One pass of the network. halves: (N,) or (1,). keys: (rounds, N) or (rounds, 1)."""
    low = (np.uint64(1) << halves) - np.uint64(1)
    left, right = values >> halves, values & low
    for key in keys:
        left, right = right, left ^ (scrambled(right, key) & low)
    return np.asarray(left << halves | right)


def scrambled(values: np.ndarray, key: np.uint64 | np.ndarray) -> np.ndarray:
    """uint64 -> uint64, every bit depending on all (the finalizer of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = values + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
