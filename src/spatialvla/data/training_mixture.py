"""Which datasets a run trains on, which of their episodes are held out, and what their actions are like."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from spatialvla.actions.grids import ActionGrid, Bins
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.data.action_sketch import SAMPLE
from spatialvla.data.episodes import EpisodeSource
from spatialvla.data.mixture import Draws, Mixture
from spatialvla.data.survey import OnBad, Survey, survey
from spatialvla.errors import InputError


@dataclass(frozen=True, eq=False)
class TrainingMixture:
    """Datasets, what is known of them, and how often each is drawn.

    held_out: (episodes,) bool a dataset, those kept from training. seed: of the split and the shuffle.
    missing_instruction: what to say where an episode does not; None leaves such episodes out.
    """

    sources: tuple[EpisodeSource, ...]
    surveys: tuple[Survey, ...]
    weights: tuple[float, ...]
    held_out: tuple[np.ndarray, ...]
    seed: int
    missing_instruction: str | None = None

    @classmethod
    def open(
        cls,
        sources: Sequence[EpisodeSource],
        weights: Sequence[float] | None = None,
        held_out: float = 0.0,
        seed: int = 0,
        missing_instruction: str | None = None,
        on_bad: OnBad = "raise",
        workers: int = 1,
        cache: Path | None = None,
    ) -> TrainingMixture:
        """Surveys the datasets, or takes the surveys from `cache`.

        weights: of each dataset, times its size; all 1 unless given. held_out: fraction of each dataset's episodes.
        on_bad, workers, cache: as of `survey`.
        Raises InputError where two datasets have one key, or one has no samples; CheckpointError for a damaged
        episode with on_bad="raise".
        """
        if not 0 <= held_out < 1:
            raise InputError(f"The held-out fraction must lie in [0, 1), not {held_out}.")
        keys = [source.key for source in sources]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise InputError(
                f"The mixture has {twice[0]} twice; name each dataset once and raise its weight."
            )
        surveys = tuple(survey(source, workers, cache, on_bad) for source in sources)
        keep = missing_instruction is not None
        for key, found in zip(keys, surveys, strict=True):
            if not found.counts(keep).any():
                raise InputError(
                    f"{key} has no samples: of {len(found.lengths)} episodes {len(found.damaged)} are damaged and "
                    f"{found.uninstructed} have no instruction; leave it out, or say what stands for an instruction."
                )
        split = (
            _held_out(found.counts(keep), held_out, seed, key)
            for key, found in zip(keys, surveys, strict=True)
        )
        given = tuple([1.0] * len(keys) if weights is None else map(float, weights))
        return cls(tuple(sources), surveys, given, tuple(split), seed, missing_instruction)

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(source.key for source in self.sources)

    @cached_property
    def training(self) -> Mixture:
        """The draws of training. Raises InputError where nothing is left to draw."""
        counts = [np.where(out, 0, counts) for out, counts in zip(self.held_out, self._counts, strict=True)]
        return Mixture(counts, self.weights, self.seed)

    def evaluation(self, limit: int) -> EvenlySpaced:
        """At most `limit` held-out samples, the same share of each dataset as far as it has so many."""
        counts = [np.where(out, counts, 0) for out, counts in zip(self.held_out, self._counts, strict=True)]
        return EvenlySpaced(counts, limit)

    def statistics(self) -> dict[str, ActionStatistics]:
        """Of the actions of each dataset, by key."""
        return {
            source.key: found.sketch.statistics()
            for source, found in zip(self.sources, self.surveys, strict=True)
        }

    def fit_grid(self, bins: Bins, min_sigma: float = 0.0, exclude: Collection[str] = ()) -> ActionGrid:
        """One action grid for all datasets, each normalised by its own statistics and counted as often as it is drawn.

        exclude: keys of datasets whose actions are left out, such as those with constant dimensions.
        """
        chosen = [number for number, key in enumerate(self.keys) if key not in exclude]
        shares = self.training.draws[chosen] / max(self.training.draws[chosen].sum(), 1)
        parts = []
        for number, share in zip(chosen, shares, strict=True):
            sketch = self.surveys[number].sketch
            # In the order of the hashes any first part is a uniform sample.
            sample = sketch.sample[np.argsort(sketch.hashes)]
            rows = np.arange(round(share * SAMPLE)) % len(sample)
            parts.append(sketch.statistics().normalize(sample[rows]))
        if not sum(map(len, parts)):
            raise InputError("no dataset is left to fit the action grid to")
        return ActionGrid.fit(np.concatenate(parts), min_sigma, bins)

    @property
    def _counts(self) -> list[np.ndarray]:
        return [found.counts(self.missing_instruction is not None) for found in self.surveys]


class EvenlySpaced:
    """Draws of at most `limit` samples, always the same, at even distances through each dataset."""

    def __init__(self, counts: Sequence[np.ndarray], limit: int) -> None:
        """counts: samples of each episode, an array a dataset."""
        sizes = np.array([part.sum() for part in counts], dtype=np.int64)
        shares = np.zeros_like(sizes)
        # From the smallest dataset on, so that what one cannot fill goes to the larger ones.
        for place, one in enumerate(np.argsort(sizes, kind="stable")):
            shares[one] = min(sizes[one], (limit - shares.sum()) // (len(sizes) - place))
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


def _held_out(counts: np.ndarray, fraction: float, seed: int, key: str) -> np.ndarray:
    """(E,) bool: a fraction of the episodes with samples, at least one of several; the other datasets do not matter."""
    usable = np.flatnonzero(counts)
    chosen = np.zeros(len(counts), bool)
    if fraction > 0 and len(usable) > 1:
        many = min(max(round(fraction * len(usable)), 1), len(usable) - 1)
        chosen[np.random.default_rng([seed, zlib.crc32(key.encode())]).permutation(usable)[:many]] = True
    return chosen
