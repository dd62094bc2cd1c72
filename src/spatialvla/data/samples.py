"""Draws -> samples: the frame read and augmented, and the actions from it on, as a function of the draw's number."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from spatialvla.data.augmentation import Augmentation, Views
from spatialvla.data.episodes import Episode, EpisodeSource, action_chunks
from spatialvla.data.mixture import Draws
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import fill_holes
from spatialvla.processor import Processor

OnBadSample = Literal["raise", "replace"]
_MOST_REPLACEMENTS = 100
_SEARCHED, _MOST_SEARCHED = (
    256,
    1 << 18,
)  # draws looked at in one go for one of the same dataset, at first and at most


@dataclass(frozen=True)
class LoadedSample:
    """One sample, ready for the processor.

    image: (H, W, 3) uint8, of the model's size where it was cropped. intrinsics: K (3, 3) in its pixels.
    depth: (H, W) metres, all positive, or None.
    actions: (chunk, 7) in the dataset's units. source: number of the dataset; key: its name in a checkpoint.
    name: "<key> episode <i> step <t>". replaced: why the samples that it stands for could not be read.
    """

    image: np.ndarray
    intrinsics: np.ndarray
    depth: np.ndarray | None
    prompt: str
    actions: np.ndarray
    source: int
    key: str
    name: str
    replaced: tuple[str, ...]


class DrawnSamples(Dataset[LoadedSample]):
    """The sample of any draw number, a function of the number alone; can be sent to other processes."""

    def __init__(
        self,
        sources: Sequence[EpisodeSource],
        draws: Callable[[np.ndarray], Draws],
        processor: Processor,
        augmentation: Augmentation,
        seed: int,
        depth: bool = False,
        missing_instruction: str | None = None,
        on_bad: OnBadSample = "raise",
        recent: int = 16,
    ) -> None:
        """depth: read the depth sensor, too. recent: episodes kept parsed, a process.

        on_bad: whether a damaged sample is an error, or the next draw of the same dataset stands in for it.
        """
        self.sources, self.draws, self.processor = tuple(sources), draws, processor
        self.augmentation, self.seed, self.depth = augmentation, seed, depth
        self.missing_instruction, self.on_bad, self.recent = missing_instruction, on_bad, recent
        self._episodes: OrderedDict[tuple[int, int], Episode] = OrderedDict()
        self._process = os.getpid()

    def __getitem__(self, number: int) -> LoadedSample:
        """Raises CheckpointError, naming the place, for a damaged sample, or too many of them one after another."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[LoadedSample]:
        """The samples of several draws; their places are computed together."""
        self._reopen_after_fork()
        draws = self.draws(np.asarray(numbers))
        places = zip(draws.source.tolist(), draws.episode.tolist(), draws.start.tolist(), strict=True)
        return [self._sample_or_next(number, *place) for number, place in zip(numbers, places, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_episodes": OrderedDict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _process=os.getpid())

    def _reopen_after_fork(self) -> None:
        """Connections and decoders do not survive a fork; sources open anew where they are unpickled."""
        if self._process != os.getpid():
            self.sources = pickle.loads(pickle.dumps(self.sources))
            self._episodes, self._process = OrderedDict(), os.getpid()

    def _sample_or_next(self, number: int, source: int, episode: int, start: int) -> LoadedSample:
        reasons: list[str] = []
        for place in self._candidates(number, source, episode, start):
            try:
                return self._sample(number, source, *place, tuple(reasons))
            except CheckpointError as error:
                if self.on_bad == "raise":
                    raise
                reasons.append(str(error))
                if len(reasons) > _MOST_REPLACEMENTS:
                    break
        raise CheckpointError(
            f"{len(reasons)} samples of {self.sources[source].key} one after another are damaged, "
            f"the first: {reasons[0]}"
        )

    def _candidates(self, number: int, source: int, episode: int, start: int) -> Iterator[tuple[int, int]]:
        """A draw's own place, and those of the following draws of its dataset."""
        yield episode, start
        first, many = number + 1, _SEARCHED
        while True:
            following = self.draws(np.arange(first, first + many))
            for row in np.flatnonzero(following.source == source).tolist():
                yield int(following.episode[row]), int(following.start[row])
            first, many = first + many, min(2 * many, _MOST_SEARCHED)

    def _sample(
        self, number: int, source: int, index: int, start: int, replaced: tuple[str, ...]
    ) -> LoadedSample:
        episode, key = self._episode(source, index), self.sources[source].key
        if start >= len(episode.starts):
            raise CheckpointError(
                f"{key} episode {index} has changed since it was surveyed; survey it again."
            )
        step = int(episode.starts[start])
        image = episode.images([step])
        camera = episode.camera or self.processor.camera(key)
        views = self.augmentation.to_size(
            Views(image, camera.scaled_to(*image.shape[1:3])[None], self._depth(episode, step, key)),
            self.processor.image_size,
            # Of the draw, not of the place: the same sample looks different each time.
            np.random.default_rng([self.seed, number]),
        )
        chunk = self.processor.action_chunk_size
        return LoadedSample(
            image=views.images[0],
            intrinsics=views.intrinsics[0],
            depth=None if views.depth is None else views.depth[0],
            prompt=self.processor.prompt(episode.instruction or self.missing_instruction or ""),
            actions=action_chunks(episode.actions, np.array([step]), len(episode.actions), chunk)[0],
            source=source,
            key=key,
            name=f"{key} episode {index} step {step}",
            replaced=replaced,
        )

    def _depth(self, episode: Episode, step: int, key: str) -> np.ndarray | None:
        if not self.depth:
            return None
        readings = episode.depth([step])
        if readings is None:
            raise InputError(f"{key} has no depth sensor; train with estimated depth.")
        return fill_holes(readings[0])[None]

    def _episode(self, source: int, index: int) -> Episode:
        place = (source, index)
        if place not in self._episodes:
            self._episodes[place] = self.sources[source].episode(index)
            if len(self._episodes) > self.recent:
                self._episodes.popitem(last=False)
        self._episodes.move_to_end(place)
        return self._episodes[place]
