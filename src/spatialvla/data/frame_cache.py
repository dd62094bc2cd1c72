"""A dataset whose frames are decoded and scaled once, and from then on are read from files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spatialvla.common.json_files import read_json, write_json
from spatialvla.common.row_files import RowFile, RowWriter, writing_rows
from spatialvla.common.threads_ahead import threads_ahead
from spatialvla.data.episodes import EpisodeSource, EpisodeView, OnBad
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera

_FORMAT = 4  # of the cached files
_MOST_THREADS = 16  # each holds the frames of an episode
_IMAGES, _DEPTH, _DAMAGED = "images", "depth", "damaged.json"


@dataclass(frozen=True)
class CachedView:
    """What one camera saw in T steps, with its frames at hand, see `spatialvla.data.episodes.EpisodeView`.

    frames: rows (S, S, 3) uint8 RGB. readings: rows (S, S) float16 meters, 0 where there is none; None without a
    sensor. first: the row of its first frame. Reading them raises CheckpointError where the cache is damaged.
    """

    camera: Camera | None
    extrinsics: np.ndarray | None
    frames: RowFile
    readings: RowFile | None
    first: int

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, S, S, 3) uint8 RGB of some steps."""
        return self.frames.rows([self.first + step for step in steps])

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, S, S) float32 meters of a sensor, 0 where there is no reading; None where there was no sensor."""
        if self.readings is None:
            return None
        return self.readings.rows([self.first + step for step in steps]).astype(np.float32)


@dataclass(frozen=True)
class CachedEpisode(CachedView):
    """T steps with their frames at hand, see `spatialvla.data.episodes.Episode`."""

    instructions: tuple[str, ...]
    actions: np.ndarray
    starts: np.ndarray
    columns: Mapping[str, np.ndarray]
    state: np.ndarray | None
    other_views: Mapping[str, CachedView]

    @property
    def instruction(self) -> str:
        """Of the first step."""
        return self.instructions[0] if self.instructions else ""

    def instruction_at(self, step: int) -> str:
        """Of one step."""
        return self.instructions[step]


@dataclass(frozen=True)
class _Place:
    """What is known of a camera in one episode."""

    camera: Camera | None
    extrinsics: np.ndarray | None

    @classmethod
    def of(cls, view: EpisodeView, size: int) -> _Place:
        camera = view.camera
        return cls(camera and Camera(camera.scaled_to(size, size), size, size), view.extrinsics)


@dataclass(frozen=True)
class _Numbers:
    """All of an episode but its frames. first: the row of its first frame in the files."""

    instructions: tuple[str, ...]
    actions: np.ndarray
    starts: np.ndarray
    columns: Mapping[str, np.ndarray]
    state: np.ndarray | None
    place: _Place
    other_places: Mapping[str, _Place]
    first: int

    @property
    def rows(self) -> np.ndarray:
        """(N,) where the frames are that samples start at."""
        return self.first + self.starts


class CachedSource:
    """The episodes of another source with all their numbers in memory and their frames in files.

    Frames are squares of `size` pixels: colors scaled bicubic as the processor does, depth to the nearest pixel; the
    cameras follow. Those that no sample starts at are black, and take no room.
    folder: of the files, which tell by its name the dataset's content, its cameras and the size.
    """

    def __init__(
        self,
        source: EpisodeSource,
        size: int,
        cache: Path,
        on_bad: OnBad = "raise",
        progress: Callable[[int], None] = lambda episodes: None,
    ) -> None:
        """Decodes what `cache` does not hold yet, in as many threads as there are cores, 16 at most.

        on_bad: whether a damaged episode, or frame of it, is an error now or when the episode is asked for.
        progress: told the number of episodes decoded since it was told before.
        Raises CheckpointError for damaged data with on_bad="raise", and where the disk has no room.
        """
        self.key, self.control_hz, self.units, self.size = source.key, source.control_hz, source.units, size
        self.state_names = tuple(source.state_names)
        self.contents = f"{source.contents} at {size} pixels"
        self.left_out, self.doubts = tuple(source.left_out), tuple(source.doubts)
        self._numbers: list[_Numbers | None] = []
        self._damaged: dict[int, str] = {}
        self._read_numbers(source, on_bad)
        others = dict.fromkeys(
            name for numbers in self._numbers if numbers is not None for name in numbers.other_places
        )
        self._others = tuple(others)
        # Damage to a camera's frames is its episode's, so what is known of them all is not known of fewer cameras.
        seen = f" and {self._others}" if others else ""
        self.fingerprint = f"{source.fingerprint} at {size} pixels{seen}"
        # Damage to states is no frame's, but leaves an episode without rows.
        digest = hashlib.sha256(f"{_FORMAT} {self.fingerprint} {self._lengths}".encode()).hexdigest()
        self.folder = cache / digest[:24]
        if not self._file(_IMAGES).is_file():
            self._decode(source, on_bad, progress)
        broken = read_json(self.folder / _DAMAGED, "delete the folder")
        self._damaged |= {int(index): str(reason) for index, reason in broken.items()}
        if self._damaged and on_bad == "raise":
            raise CheckpointError(next(iter(self._damaged.values())))
        self._open()

    def __len__(self) -> int:
        return len(self._numbers)

    def prepare(self, workers: int) -> None:
        """Nothing: all is at hand."""

    def episode(self, index: int) -> CachedEpisode:
        """Any episode. Raises InputError for a wrong index, CheckpointError for one that could not be read."""
        if not 0 <= index < len(self):
            raise InputError(f"{self.key} has episodes 0 to {len(self) - 1}, not {index}.")
        numbers = self._numbers[index]
        if numbers is None or index in self._damaged:
            raise CheckpointError(self._damaged[index])
        return CachedEpisode(
            **self._view(numbers.place, numbers.first),
            instructions=numbers.instructions,
            actions=numbers.actions,
            starts=numbers.starts,
            columns=numbers.columns,
            state=numbers.state,
            other_views={
                name: CachedView(**self._view(place, numbers.first, name))
                for name, place in numbers.other_places.items()
            },
        )

    def _view(self, place: _Place, first: int, name: str | None = None) -> dict[str, Any]:
        frames, readings = self._files[name]
        return {**vars(place), "frames": frames, "readings": readings, "first": first}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_files": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def _open(self) -> None:
        """Opens the files of frames and readings of each camera; the first one's under None."""
        shape = self._shape
        self._files: dict[str | None, tuple[RowFile, RowFile | None]] = {}
        for name in (None, *self._others):
            depth = self._file(_DEPTH, name)
            self._files[name] = (
                RowFile(self._file(_IMAGES, name), (*shape, 3), np.uint8),
                RowFile(depth, shape, np.float16) if depth.is_file() else None,
            )

    def _file(self, what: str, name: str | None = None) -> Path:
        number = "" if name is None else f"_{self._others.index(name) + 1}"
        return self.folder / f"{what}{number}.npy"

    @property
    def _shape(self) -> tuple[int, int, int]:
        return max(sum(self._lengths), 1), self.size, self.size  # no empty file can be mapped to be written

    @property
    def _lengths(self) -> list[int]:
        """Of each episode; 0 for those that cannot be read."""
        return [len(numbers.actions) if numbers else 0 for numbers in self._numbers]

    def _read_numbers(self, source: EpisodeSource, on_bad: OnBad) -> None:
        first = 0
        for index in range(len(source)):
            try:
                episode = source.episode(index)
                others = {name: _Place.of(view, self.size) for name, view in episode.other_views.items()}
                state = episode.state if self.state_names else None
            except CheckpointError as error:
                if on_bad == "raise":
                    raise
                self._damaged[index] = str(error)
                self._numbers.append(None)
                continue
            self._numbers.append(
                _Numbers(
                    instructions=tuple(map(episode.instruction_at, range(len(episode.actions)))),
                    actions=episode.actions,
                    starts=episode.starts,
                    columns=episode.columns,
                    state=state,
                    place=_Place.of(episode, self.size),
                    other_places=others,
                    first=first,
                )
            )
            first += len(episode.actions)

    def _decode(self, source: EpisodeSource, on_bad: OnBad, progress: Callable[[int], None]) -> None:
        damaged: dict[int, str] = {}
        seen = sum(len(numbers.starts) for numbers in self._numbers if numbers)
        with ExitStack() as files:
            # The first camera's images are left last and so named last: where they are, the others are.
            images = {
                name: files.enter_context(
                    writing_rows(self._file(_IMAGES, name), (*self._shape, 3), np.uint8, seen)
                )
                for name in (None, *self._others)
            }
            depth: dict[str | None, RowWriter] = {}
            whole = [
                (index, found) for index, found in enumerate(self._numbers) if found and len(found.starts)
            ]
            threads = min(os.cpu_count() or 1, _MOST_THREADS)
            decoded = threads_ahead(partial(_scaled_views, source, self.size), whole, threads)
            for (index, numbers), of_threads in zip(whole, decoded, strict=True):
                try:
                    views = of_threads.result()
                except CheckpointError as error:
                    if on_bad == "raise":
                        raise
                    damaged[index] = str(error)
                    continue
                for name, (pictures, readings) in views.items():
                    images[name][numbers.rows] = pictures
                    if readings is None:
                        continue
                    if name not in depth:
                        writing = writing_rows(self._file(_DEPTH, name), self._shape, np.float16, seen)
                        depth[name] = files.enter_context(writing)
                    depth[name][numbers.rows] = readings
                progress(1)
            write_json(self.folder / _DAMAGED, damaged, checksum=True)


def _scaled_views(
    source: EpisodeSource, size: int, numbered: tuple[int, _Numbers]
) -> dict[str | None, tuple[np.ndarray, np.ndarray | None]]:
    """The frames of an episode that samples start at and its sensors' readings, by camera; the first one's under
    None."""
    index, numbers = numbered
    episode, steps = source.episode(index), numbers.starts.tolist()
    found: dict[str | None, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, view in [(None, episode), *episode.other_views.items()]:
        pictures = _scaled(view.images(steps), size, Image.Resampling.BICUBIC)
        readings = view.depth(steps)
        found[name] = (
            pictures,
            None if readings is None else _scaled(readings, size, Image.Resampling.NEAREST),
        )
    return found


def _scaled(frames: np.ndarray, size: int, resampling: Image.Resampling) -> np.ndarray:
    if frames.shape[1:3] == (size, size):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize((size, size), resampling)) for frame in frames])
