"""A dataset that several cameras have seen, as a policy learns from it that is to look through any of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spatialvla.data.episodes import Episode, EpisodeSource, EpisodeView, EpisodeWrapper, SourceWrapper
from spatialvla.geometry.camera import Camera


@dataclass(frozen=True)
class EveryView(SourceWrapper):
    """Each episode once through each of several cameras, one after the other: the first, then `others` in its place.

    others: names of cameras that the dataset has beside the first. kept: names of those that are shown beside whichever
    is first.
    """

    others: tuple[str, ...]
    kept: Collection[str] = ()

    @property
    def fingerprint(self) -> str:
        """Of the dataset and the cameras."""
        return f"{self.source.fingerprint} also through {self.others}"

    @property
    def contents(self) -> str:
        """Of the dataset and the cameras."""
        return f"{self.source.contents} also through {self.others}"

    @property
    def views(self) -> tuple[ThroughCamera, ...]:
        """The dataset through each of the cameras."""
        return tuple(ThroughCamera(self.source, name, self.kept) for name in (None, *self.others))

    def __len__(self) -> int:
        return len(self.source) * (1 + len(self.others))

    def episode(self, index: int) -> Episode:
        """Any episode through one of the cameras. Raises CheckpointError, naming the file, for damaged data."""
        number, view = divmod(index, 1 + len(self.others))
        return self.views[view].episode(number)


@dataclass(frozen=True)
class ThroughCamera(SourceWrapper):
    """A dataset with one of its further cameras in the place of the first; None leaves the first there.

    kept: names of the cameras that are shown beside it.
    """

    name: str | None
    kept: Collection[str]

    @property
    def key(self) -> str:
        """What sentences call it."""
        return self.source.key if self.name is None else f"{self.source.key} through '{self.name}'"

    def episode(self, index: int) -> Episode:
        """Any episode; without samples where the camera was missing. Raises CheckpointError for damaged data."""
        episode = self.source.episode(index)
        views = episode.other_views
        first: EpisodeView | None = episode if self.name is None else views.get(self.name)
        beside = {name: views[name] for name in views if name in self.kept and name != self.name}
        return _SeenThrough(episode, first, beside)


@dataclass(frozen=True)
class _SeenThrough(EpisodeWrapper):
    first: EpisodeView | None
    beside: Mapping[str, EpisodeView]

    @property
    def starts(self) -> np.ndarray:
        return self.episode.starts if self.first is not None else self.episode.starts[:0]

    @property
    def camera(self) -> Camera | None:
        return self._view.camera

    @property
    def extrinsics(self) -> np.ndarray | None:
        return self._view.extrinsics

    @property
    def other_views(self) -> Mapping[str, EpisodeView]:
        return self.beside

    def images(self, steps: Sequence[int]) -> np.ndarray:
        return self._view.images(steps)

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        return self._view.depth(steps)

    @property
    def _view(self) -> EpisodeView:
        # An episode without samples is asked for no picture, but may be for its camera.
        return self.episode if self.first is None else self.first


def views_of(source: EpisodeSource) -> tuple[EpisodeSource, ...]:
    """The dataset through each camera that takes the first one's place; itself where there is one alone."""
    return source.views if isinstance(source, EveryView) else (source,)


def beneath(source: EpisodeSource, change: Callable[[EpisodeSource], EpisodeSource]) -> EpisodeSource:
    """The source with a change made to the dataset itself, all cameras at once."""
    return replace(source, source=change(source.source)) if isinstance(source, EveryView) else change(source)
