"""A dataset that several cameras have seen, as a policy learns from it that is to look through any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spatialvla.data.episodes import Episode, EpisodeSource, SourceWrapper


@dataclass(frozen=True)
class EveryView(SourceWrapper):
    """Each episode once for each of several first cameras, in their order, one after the other.

    source: the dataset through the first of them, whose numbers speak for all. others: the same dataset through the
    others.
    """

    others: tuple[EpisodeSource, ...]

    @classmethod
    def of(cls, views: Sequence[EpisodeSource]) -> EpisodeSource:
        """The dataset through all of them; as it is where there is one."""
        first, *others = views
        return cls(first, tuple(others)) if others else first

    @property
    def fingerprint(self) -> str:
        """Of the dataset through each camera."""
        return " and ".join(view.fingerprint for view in self._views)

    @property
    def contents(self) -> str:
        """Of the dataset through each camera."""
        return " and ".join(view.contents for view in self._views)

    @property
    def left_out(self) -> Sequence[str]:
        """Why each part that is no episode cannot be read or used, each reason once."""
        return tuple(dict.fromkeys(reason for view in self._views for reason in view.left_out))

    @property
    def doubts(self) -> Sequence[str]:
        """What is odd about the files, each doubt once."""
        return tuple(dict.fromkeys(doubt for view in self._views for doubt in view.doubts))

    def __len__(self) -> int:
        return sum(map(len, self._views))

    def prepare(self, workers: int) -> None:
        """Reads the dataset once through each camera."""
        for view in self._views:
            view.prepare(workers)

    def episode(self, index: int) -> Episode:
        """Any episode through one of the cameras. Raises CheckpointError, naming the file, for damaged data."""
        number, camera = divmod(index, len(self._views))
        return self._views[camera].episode(number)

    @property
    def _views(self) -> tuple[EpisodeSource, ...]:
        return (self.source, *self.others)
