"""Read a LeRobot dataset of format v2 or v3, episode by episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from spatialvla.common.files import inside
from spatialvla.data.frames import Clip
from spatialvla.data.lerobot import image_files, metadata, metadata_v2
from spatialvla.data.lerobot.depth_video import DepthQuantization, frame_codes
from spatialvla.data.lerobot.features import BOOKKEEPING, Feature, meters_of_unit
from spatialvla.data.lerobot.metadata import VERSION, EpisodeRecord, FilePart, Info, read_info
from spatialvla.data.lerobot.parquet_files import open_parquet
from spatialvla.data.lerobot.recent_tables import RecentTables
from spatialvla.errors import CheckpointError, InputError

VERSIONS = (VERSION, *metadata_v2.VERSIONS)
"""Of the format, those that can be read."""


class Frames(Protocol):
    """What one camera saw in an episode, as it is stored."""

    def decode(self, steps: Sequence[int] | None = None) -> np.ndarray:
        """Of all steps or some, as `StoredEpisode.frames` gives them."""


@dataclass(frozen=True)
class _ImageColumn:
    """An episode's frames of one camera as image files, read when asked for. source: their parquet file."""

    read: Callable[[], pa.ChunkedArray]
    feature: Feature
    source: Path

    def decode(self, steps: Sequence[int] | None = None) -> np.ndarray:
        column = self.read()
        wanted = column if steps is None else column.take(list(steps))
        files = [cell and cell["bytes"] for cell in wanted.to_pylist()]
        if not self.feature.is_depth:
            return image_files.decode_rgb(files, str(self.source))
        readings = image_files.decode_depth(files, str(self.source))
        with _naming(self.feature.name, self.source):
            return readings.astype(np.float32) * np.float32(meters_of_unit(self.feature.info))


@dataclass(frozen=True)
class _DepthClip:
    """An episode's depth in a video."""

    clip: Clip
    feature: Feature

    def decode(self, steps: Sequence[int] | None = None) -> np.ndarray:
        with _naming(self.feature.name, self.clip.path):
            meters_of_unit(self.feature.info)
            quantization = DepthQuantization.from_info(self.feature.info)
            return quantization.dequantize(self.clip.decode(steps, frame_codes))


@contextmanager
def _naming(feature: str, source: Path) -> Iterator[None]:
    """Turn what cannot be depth into a CheckpointError that names the feature and its file."""
    try:
        yield
    except InputError as error:
        raise CheckpointError(f"{source}, '{feature}': {error}") from None


def _check_there(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; copy the whole dataset folder.")


@dataclass(frozen=True)
class StoredEpisode:
    """One episode of T frames as it is stored.

    index: its number in the dataset. instructions: (T,) the task of each frame in words.
    columns: numbers by feature name, (T, *shape), or (T,) for shape (1,); 'timestamp' in seconds among them.
    cameras: by feature name.
    """

    index: int
    instructions: tuple[str, ...]
    columns: Mapping[str, np.ndarray]
    cameras: Mapping[str, Frames]

    def __len__(self) -> int:
        return len(self.columns["frame_index"])

    @property
    def instruction(self) -> str:
        """The task of the first frame, "" without frames."""
        return self.instructions[0] if self.instructions else ""

    def frames(self, key: str, steps: Sequence[int] | None = None) -> np.ndarray:
        """Decode a camera's frames, or those of some steps alone: (n, H, W, 3) uint8 RGB, or (n, H, W)
        float32 meters for depth, 0 where there is no reading.

        Raises InputError for an unknown camera or step, CheckpointError for a missing or broken file.
        """
        if key not in self.cameras:
            raise InputError(
                f"There is no camera '{key}'; the dataset has {', '.join(self.cameras) or 'none'}."
            )
        if steps is not None and (not len(steps) or min(steps) < 0 or max(steps) >= len(self)):
            raise InputError(f"Episode {self.index} has the steps 0 to {len(self) - 1}, not {list(steps)}.")
        return self.cameras[key].decode(steps)


class LeRobotDataset:
    """A dataset folder; `len(dataset)` episodes, read when asked for.

    info: frames a second, features by name, robot; language annotations are left out, and what the files do
    not hold. absent: the names of those. tasks: the instructions.

    Raises CheckpointError, naming the file, when one is missing, truncated or of another format version.
    """

    def __init__(self, root: str | Path, complete: bool = True) -> None:
        """complete: whether all video files have to be there; else `check_videos` tells of some features'."""
        self.root = Path(root)
        self.info: Info = read_info(self.root, VERSIONS)
        meta = metadata_v2 if self.info.version in metadata_v2.VERSIONS else metadata
        self.tasks: tuple[str, ...] = meta.read_tasks(self.root)
        self._records: tuple[EpisodeRecord, ...] = meta.read_episodes(self.root, self.info)
        self._file_starts: dict[Path, int] = {}
        self._video_starts: dict[Path, float] = {}
        self._videos: dict[str, dict[Path, None]] = {}
        self._following: dict[int, int] = {}
        self._tables = RecentTables()
        for record, following in zip(self._records, [*self._records[1:], None], strict=True):
            path = self._data_path(record)
            self._file_starts.setdefault(path, record.first_frame)
            if following is not None and self._data_path(following) == path:
                self._following[record.index] = following.first_frame
            for camera, part in record.videos.items():
                video = self._video_path(camera, part)
                self._video_starts[video] = min(part.start, self._video_starts.get(video, part.start))
                self._videos.setdefault(camera, {})[video] = None
        _check_there(self._file_starts)
        if complete:
            _check_there(self._video_starts)
        held = self._held_features()
        self.absent = tuple(name for name in self.features if name not in held)
        self.info = replace(self.info, features=held)
        self._stored = [name for name, feature in held.items() if not feature.is_video]

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.info.fps

    @property
    def features(self) -> Mapping[str, Feature]:
        """What each frame has, by name."""
        return self.info.features

    @property
    def lengths(self) -> np.ndarray:
        """(episodes,) frames of each."""
        return np.array([record.length for record in self._records])

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[StoredEpisode]:
        return (self.episode(index) for index in range(len(self)))

    def check_videos(self, features: Iterable[str]) -> None:
        """Raises CheckpointError, naming it, where a video file of one of these features is missing."""
        for name in features:
            _check_there(self._videos.get(name, {}))

    def instruction(self, index: int) -> str:
        """The task of an episode's first frame, or "" without frames; nothing else of it is read."""
        record = self._record(index)
        path = self._data_path(record)
        numbers = self._numbers(self._rows(record, path, ["task_index"]), "task_index", path)
        return self._words(numbers[:1], path)[0] if len(numbers) else ""

    def episode(self, index: int) -> StoredEpisode:
        """Read the numbers of an episode; its frames are decoded by `StoredEpisode.frames`.

        Raises InputError for an index out of range, CheckpointError for a broken file.
        """
        record = self._record(index)
        path = self._data_path(record)
        numbers = [
            name for name, feature in self.features.items() if not (feature.is_rgb or feature.is_depth)
        ]
        table = self._rows(record, path, numbers)
        columns: dict[str, np.ndarray] = {}
        cameras: dict[str, Frames] = {}
        for name, feature in self.features.items():
            if feature.is_encoded_image:
                cameras[name] = _ImageColumn(partial(self._column, record, path, name), feature, path)
            elif not feature.is_video:
                columns[name] = self._numbers(table, name, path)
        if not (columns["episode_index"] == index).all():
            raise CheckpointError(
                f"{path} does not hold episode {index} where meta says; copy the dataset again."
            )
        for name, part in record.videos.items():
            clip, feature = self._clip(name, part, columns["timestamp"], path), self.features[name]
            cameras[name] = _DepthClip(clip, feature) if feature.is_depth else clip
        return StoredEpisode(index, self._words(columns["task_index"], path), columns, cameras)

    def _held_features(self) -> dict[str, Feature]:
        """Those of info.json that the files hold, too. The first data file that can be read tells which."""
        videos = {name for record in self._records for name in record.videos}
        for path in self._file_starts:
            try:
                with open_parquet(path) as file:
                    columns = set(file.schema_arrow.names)
            except (pa.ArrowException, OSError):  # is said of the episodes inside, when they are read
                continue
            if missing := [column.name for column in BOOKKEEPING if column.name not in columns]:
                raise CheckpointError(
                    f"{path} lacks the column '{missing[0]}', which all LeRobot datasets have; copy it again."
                )
            return {
                name: feature
                for name, feature in self.features.items()
                if name in (videos if feature.is_video else columns)
            }
        return dict(self.features)

    def _numbers(self, table: pa.Table, name: str, path: Path) -> np.ndarray:
        feature = self.features[name]
        try:
            return feature.from_arrow(table[name])
        except (ValueError, pa.ArrowException) as error:
            raise CheckpointError(
                f"{path} has rows of '{name}' that do not fit info.json ({error}); leave the episode out."
            ) from error

    def _words(self, numbers: np.ndarray, path: Path) -> tuple[str, ...]:
        """The tasks with these numbers."""
        unknown = [number for number in numbers.tolist() if number not in range(len(self.tasks))]
        if unknown:
            raise CheckpointError(
                f"{path} has frames of task {unknown[0]}; meta names the tasks 0 to {len(self.tasks) - 1}."
            )
        return tuple(self.tasks[number] for number in numbers.astype(int).tolist())

    def _clip(self, camera: str, part: FilePart, timestamps: np.ndarray, source: Path) -> Clip:
        """As LeRobot finds a row's frame: by the row's time, after that of the episode in the video."""
        times = timestamps.astype(np.float64)
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise CheckpointError(
                f"{source} has timestamps that do not ascend, by which frames are found; leave the episode out."
            )
        path = self._video_path(camera, part)
        return Clip(path, part.start + times, self._video_starts[path] + float(times[:1].sum()), self.fps)

    def _column(self, record: EpisodeRecord, path: Path, name: str) -> pa.ChunkedArray:
        return self._rows(record, path, [name])[name]

    def _rows(self, record: EpisodeRecord, path: Path, names: Sequence[str]) -> pa.Table:
        """The episode's rows of some columns, from those row groups alone that hold some of them."""
        first = record.first_frame - self._file_starts[path]
        groups = self._tables.row_groups(path)
        if missing := [name for name in self._stored if name not in groups.columns]:
            raise CheckpointError(
                f"{path} lacks the column '{missing[0]}' that the dataset's other files have; copy it again."
            )
        held = self._following.get(record.index, self._file_starts[path] + groups.rows)
        if held > record.first_frame + record.length:
            raise CheckpointError(
                f"{path} holds {held - record.first_frame} frames of episode {record.index}, whose length is "
                f"{record.length} in meta; copy the dataset again."
            )
        wanted, before = groups.around(first, record.length)
        table = self._tables.read(path, names, wanted).slice(first - before, record.length)
        if len(table) != record.length:
            raise CheckpointError(
                f"{path} holds {len(table)} of the {record.length} frames of episode {record.index}; "
                "copy it again."
            )
        return table

    def _record(self, index: int) -> EpisodeRecord:
        if not 0 <= index < len(self):
            raise InputError(
                f"Episode {index} does not exist; {self.root} has episodes 0 to {len(self) - 1}."
            )
        return self._records[index]

    def _data_path(self, record: EpisodeRecord) -> Path:
        return self._inside(
            self.info.data_path.format(chunk_index=record.data.chunk, file_index=record.data.file)
        )

    def _video_path(self, camera: str, part: FilePart) -> Path:
        return self._inside(
            str(self.info.video_path).format(video_key=camera, chunk_index=part.chunk, file_index=part.file)
        )

    def _inside(self, name: str) -> Path:
        try:
            return inside(self.root, name)
        except ValueError as error:
            raise CheckpointError(
                f"{self.root}/meta/info.json leads out of the dataset's folder ({error}); correct its paths."
            ) from None
