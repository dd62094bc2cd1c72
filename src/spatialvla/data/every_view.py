"""A dataset looked through another of its cameras, or through each of several, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spatialvla.data.episodes import (
    CAMERA_POSE,
    Episode,
    EpisodeSource,
    EpisodeView,
    EpisodeWrapper,
    SourceWrapper,
)
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera


@dataclass(frozen=True)
class EveryView(SourceWrapper):
    """Each episode once through each of some cameras, which takes the first one's place.

    names: of the cameras; None is the dataset's own first one. own: what that is called beside another. kept: names of
    those that are shown beside whichever is first; None keeps all.
    """

    names: tuple[str | None, ...]
    own: str
    kept: Collection[str] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the dataset and the cameras."""
        return f"{self.source.fingerprint} through {self.names}"

    @property
    def contents(self) -> str:
        """Of the dataset and the cameras."""
        return f"{self.source.contents} through {self.names}"

    @property
    def views(self) -> tuple[ThroughCamera, ...]:
        """The dataset through each of the cameras."""
        return tuple(ThroughCamera(self.source, name, self.own, self.kept) for name in self.names)

    def __len__(self) -> int:
        return len(self.source) * len(self.names)

    def episode(self, index: int) -> Episode:
        """Any episode through one of the cameras. Raises CheckpointError, naming the file, for damaged data."""
        number, view = divmod(index, len(self.names))
        return self.views[view].episode(number)


@dataclass(frozen=True)
class ThroughCamera(SourceWrapper):
    """A dataset through one of its cameras; see `EveryView`. Its key is what sentences call it."""

    name: str | None
    own: str
    kept: Collection[str] | None

    @property
    def key(self) -> str:
        """With the camera's name, where it is not the dataset's own first one."""
        return self.source.key if self.name is None else f"{self.source.key} through '{self.name}'"

    def episode(self, index: int) -> Episode:
        """Any episode; without samples where the camera was missing. Raises CheckpointError for damaged data."""
        episode = self.source.episode(index)
        views: dict[str, EpisodeView] = {**episode.other_views, self.own: episode}
        name = self.own if self.name is None else self.name
        first = views.pop(name, None)
        if first is not None:
            _ = first.camera, first.extrinsics
        if self.kept is not None:
            views = {name: view for name, view in views.items() if name in self.kept}
        return _SeenThrough(episode, first, views)


@dataclass(frozen=True)
class _SeenThrough(EpisodeWrapper):
    """first: None where the camera was missing."""

    first: EpisodeView | None
    beside: Mapping[str, EpisodeView]

    @property
    def starts(self) -> np.ndarray:
        return self.episode.starts if self.first is not None else self.episode.starts[:0]

    @property
    def camera(self) -> Camera | None:
        return None if self.first is None else self.first.camera

    @property
    def extrinsics(self) -> np.ndarray | None:
        return None if self.first is None else self.first.extrinsics

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Without the first camera's pose, where nothing tells how the one that is looked through stands to it."""
        columns = self.episode.columns
        if self.first is self.episode or self.extrinsics is not None:
            return columns
        return {name: values for name, values in columns.items() if name != CAMERA_POSE}

    @property
    def other_views(self) -> Mapping[str, EpisodeView]:
        return self.beside

    def images(self, steps: Sequence[int]) -> np.ndarray:
        if self.first is None:
            raise CheckpointError("A picture was asked for of a camera that was missing.")
        return self.first.images(steps)

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        return None if self.first is None else self.first.depth(steps)


def views_of(source: EpisodeSource) -> tuple[EpisodeSource, ...]:
    """The dataset through each camera that takes the first one's place; itself where nothing does."""
    return source.views if isinstance(source, EveryView) else (source,)


def beneath(source: EpisodeSource, change: Callable[[EpisodeSource], EpisodeSource]) -> EpisodeSource:
    """The source with a change made to the dataset itself, all cameras at once."""
    return replace(source, source=change(source.source)) if isinstance(source, EveryView) else change(source)
