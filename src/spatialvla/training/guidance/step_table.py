"""What is known of every step of a mixture, to look up for the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from spatialvla.data.episodes import Episode
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.data.training_mixture import TrainingMixture


class Steps:
    """All steps of all episodes of a mixture that can be read, one after another: N in all."""

    def __init__(self, mixture: TrainingMixture) -> None:
        self.mixture = mixture
        lengths = [found.lengths for found in mixture.surveys]
        ends = np.cumsum(np.concatenate(lengths))
        self._first = np.split(
            ends - np.concatenate(lengths), np.cumsum([len(part) for part in lengths])[:-1]
        )

    def table(self, numbers: Callable[[Episode], np.ndarray]) -> np.ndarray:
        """(N, columns) of what `numbers` tells of each episode, (T, columns)."""
        return np.concatenate([numbers(episode) for episode in self._episodes()])

    def rows(self, loaded: LoadedBatch) -> np.ndarray:
        """(B,) the rows of a batch's samples in a table."""
        first = [self._first[s][e] for s, e in zip(loaded.source, loaded.episode, strict=True)]
        return np.asarray(np.array(first, dtype=np.int64) + loaded.step)

    def _episodes(self) -> Iterator[Episode]:
        for source, found in zip(self.mixture.sources, self.mixture.surveys, strict=True):
            yield from (source.episode(index) for index in np.flatnonzero(found.lengths).tolist())


def standardized(table: np.ndarray) -> np.ndarray:
    """Each column of (N, columns) with mean 0 and deviation 1, float32; one that never changes becomes 0.

    What is not known, NaN, stays so.
    """
    spread = np.nanstd(table, axis=0)
    moves = spread > _SMALLEST_SPREAD
    return np.asarray((table - np.nanmean(table, axis=0)) / np.where(moves, spread, 1), np.float32)


_SMALLEST_SPREAD = 1e-6
