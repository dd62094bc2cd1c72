"""Demonstrations in which somebody took over: samples whose chunk was not carried out are left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialvla.data.episodes import Episode, EpisodeWrapper, SourceWrapper

TAKEOVER = "takeover"
"""The column that is not 0 where something else was done than the action says (DAgger)."""


@dataclass(frozen=True)
class WholeChunks(SourceWrapper):
    """A dataset without the samples of which one of the `chunk` actions was not carried out.

    Where a policy drove, each action answers a state that the actions before it would not have led to: together they
    are no plan. A dataset without the column TAKEOVER stays as it is.
    """

    chunk: int

    @property
    def fingerprint(self) -> str:
        """Of the dataset and the length of a chunk."""
        return f"{self.source.fingerprint} in chunks of {self.chunk}"

    def episode(self, index: int) -> Episode:
        """An episode with fewer starts. Raises CheckpointError, naming the file, for damaged data."""
        episode = self.source.episode(index)
        if TAKEOVER not in episode.columns:
            return episode
        taken_over = episode.columns[TAKEOVER].reshape(-1) != 0
        rows = np.minimum(episode.starts[:, None] + np.arange(self.chunk), len(taken_over) - 1)
        return _FewerStarts(episode, episode.starts[~taken_over[rows].any(axis=1)])


@dataclass(frozen=True)
class _FewerStarts(EpisodeWrapper):
    kept: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        return self.kept
