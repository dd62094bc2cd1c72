"""The `meta` folder: info.json, stats.json, tasks.parquet and the table of episodes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spatialvla.common.files import replacing
from spatialvla.common.json_files import read_json, write_json
from spatialvla.data.lerobot.features import BOOKKEEPING, Feature
from spatialvla.data.lerobot.parquet_files import open_parquet, read_columns, read_parquet, write_parquet
from spatialvla.data.lerobot.stats import Statistics
from spatialvla.errors import CheckpointError

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

_MOST_TASKS = 1_000_000
_LARGEST = 2**53
_LONGEST_VIDEO = 1e7
_INFO = "meta/info.json"
_STATS = "meta/stats.json"
_TASKS = "meta/tasks.parquet"
_PATH_FIELD = re.compile(r"\{(chunk_index|file_index)(:\d{1,2}d)?\}|\{video_key\}")
_EPISODES = "meta/episodes"


@dataclass(frozen=True)
class Info:
    """What holds for the whole dataset. fps: frames a second; the paths are templates of a file's numbers.

    version: of the format it was read from.
    """

    fps: float
    features: Mapping[str, Feature]
    robot_type: str | None = None
    total_episodes: int = 0
    total_frames: int = 0
    total_tasks: int = 0
    data_path: str = DATA_PATH
    video_path: str | None = VIDEO_PATH
    version: str = VERSION
    files_per_chunk: int = FILES_PER_CHUNK

    def to_json(self) -> dict[str, Any]:
        """The content of info.json."""
        return {
            "codebase_version": VERSION,
            "fps": self.fps,
            "features": {name: feature.to_json() for name, feature in self.features.items()},
            "total_episodes": self.total_episodes,
            "total_frames": self.total_frames,
            "total_tasks": self.total_tasks,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": VIDEO_FILE_MB,
            "data_path": self.data_path,
            "video_path": self.video_path,
            "robot_type": self.robot_type,
            "splits": {"train": f"0:{self.total_episodes}"},
        }


@dataclass(frozen=True)
class FilePart:
    """An episode's part of a data or video file. chunk, file: its numbers. start: seconds into a video."""

    chunk: int
    file: int
    start: float = 0.0


@dataclass(frozen=True)
class EpisodeRecord:
    """Where one episode is. first_frame: its first frame's index in the dataset; length in frames."""

    index: int
    first_frame: int
    length: int
    data: FilePart
    videos: Mapping[str, FilePart]


def is_dataset(root: Path) -> bool:
    """Whether a finished dataset of any version lies in `root`."""
    return (root / _INFO).exists()


def write_info(root: Path, info: Info) -> None:
    """info.json."""
    write_json(root / _INFO, info.to_json(), indent=4)


def write_stats(root: Path, stats: Mapping[str, Statistics]) -> None:
    """stats.json: of the whole dataset, by feature."""
    write_json(
        root / _STATS, {name: {k: v.tolist() for k, v in part.items()} for name, part in stats.items()}
    )


def write_tasks(root: Path, tasks: Sequence[str]) -> None:
    """Tasks in order of their number, as the index of a pandas table, where LeRobot looks for them."""
    columns = [
        {"name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": None,
            }
        ],
        "columns": [{**column, "field_name": column["name"], "metadata": None} for column in columns],
        "pandas_version": "2.0.0",
    }
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(pandas)}
    )
    table = pa.table({"task_index": range(len(tasks)), "task": list(tasks)}, schema=schema)
    with replacing(root / _TASKS) as path:
        write_parquet(path, [table], table.schema)


def write_episodes(
    root: Path,
    records: Sequence[EpisodeRecord],
    tasks: Sequence[Sequence[str]],
    stats: Sequence[Mapping[str, Statistics]],
    fps: float,
) -> None:
    """The table of episodes with the tasks and the statistics of each."""
    rows = [_episode_row(*row, fps) for row in zip(records, tasks, stats, strict=True)]
    with replacing(root / _EPISODES / "chunk-000/file-000.parquet") as path:
        table = pa.Table.from_pylist(rows)
        write_parquet(path, [table], table.schema)


def read_info(root: Path, versions: Sequence[str] = (VERSION,)) -> Info:
    """Read info.json. Raises CheckpointError where it is missing, broken or of none of these versions."""
    path = root / _INFO
    raw = read_json(path, "give the folder of a finished LeRobot dataset")
    version = raw.get("codebase_version")
    if version not in versions:
        raise CheckpointError(
            f"{path} says format '{version}', none of {', '.join(versions)}; convert it with lerobot's own "
            "converter."
        )
    try:
        features = [Feature.from_json(name, spec) for name, spec in raw["features"].items()]
        if missing := {column.name for column in BOOKKEEPING} - {
            column.name for column in features if column
        }:
            raise ValueError(f"it lists no {', '.join(sorted(missing))}")
        return Info(
            fps=_rate(raw["fps"]),
            features={feature.name: feature for feature in features if feature is not None},
            robot_type=raw.get("robot_type"),
            total_episodes=int(raw["total_episodes"]),
            total_frames=int(raw["total_frames"]),
            total_tasks=int(raw["total_tasks"]),
            data_path=_file_template(raw.get("data_path", DATA_PATH)),
            video_path=_file_template(raw["video_path"]) if raw.get("video_path") else None,
            version=str(version),
            files_per_chunk=int(raw.get("chunks_size", FILES_PER_CHUNK)),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path} is not a LeRobot description ({error}); copy it again.") from error


def _rate(fps: Any) -> float:
    """Frames a second, whole or not: 29.97 is a rate of its own."""
    if isinstance(fps, bool) or not 0 < float(fps) < np.inf:
        raise ValueError(f"fps is {fps}")
    return int(fps) if float(fps).is_integer() else float(fps)


def _file_template(path: str) -> str:
    """A path template of format v2 in v3's terms: an episode's number is its file's.

    Raises ValueError for fields other than the three of the format, and for numbers wider than 99 digits.
    """
    template = path.replace("{episode_chunk", "{chunk_index").replace("{episode_index", "{file_index")
    if re.search("[{}]", _PATH_FIELD.sub("", template)):
        raise ValueError(f"the path template {path[:100]!r} has a field that is not of the format")
    return template


def read_tasks(root: Path) -> tuple[str, ...]:
    """The instructions, in order of their number."""
    path = root / _TASKS
    table = read_parquet(path, partial(_read_table, path))
    text = [column.name for column in table.schema if _is_text(column.type)]
    if "task_index" not in table.column_names or not text:
        raise CheckpointError(f"{path} has no numbered tasks; copy it again.")
    name = "task" if "task" in text else text[0]
    return in_order(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True), path)


def in_order(numbered: Iterable[tuple[Any, Any]], path: Path) -> tuple[str, ...]:
    """Tasks by their numbers; "" where a number has none. Raises CheckpointError, naming `path`."""
    try:
        tasks = {whole(number): str(task or "") for number, task in numbered}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a task without a number ({error}); copy it again.") from error
    if tasks and not 0 <= min(tasks) <= max(tasks) < _MOST_TASKS:
        raise CheckpointError(f"{path} numbers tasks from {min(tasks)} to {max(tasks)}; copy it again.")
    return tuple(tasks.get(number, "") for number in range(max(tasks, default=-1) + 1))


def whole(number: Any) -> int:
    """A number that may have become a float on its way through a table.

    Raises ValueError, TypeError or OverflowError for anything else, and where no dataset counts so far.
    """
    if isinstance(number, str) or number != int(number) or abs(number) > _LARGEST:
        raise ValueError(f"{number!r} is no whole number of a dataset")
    return int(number)


def _seconds(time: Any) -> float:
    """A time in a video. Raises ValueError or TypeError for anything else."""
    if not 0 <= float(time) <= _LONGEST_VIDEO:
        raise ValueError(f"{time!r} is no time in a video")
    return float(time)


def _is_text(kind: pa.DataType) -> bool:
    """Also as pandas 3 and polars write text, and as a category."""
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(kind) for is_kind in kinds) or (
        pa.types.is_dictionary(kind) and _is_text(kind.value_type)
    )


def read_episodes(root: Path, info: Info) -> tuple[EpisodeRecord, ...]:
    """All rows of the table of episodes, without statistics, in order."""
    paths = sorted((root / _EPISODES).glob("*/*.parquet"))
    if not paths:
        raise CheckpointError(
            f"{root / _EPISODES} holds no table of episodes; copy the whole dataset folder."
        )
    listed = [name for name, feature in info.features.items() if feature.is_video]
    records: list[EpisodeRecord] = []
    for path in paths:
        try:
            rows = read_parquet(path, partial(_rows, path))
            # A camera that the table does not know is one that the dataset does not hold.
            videos = [name for name in listed if rows and f"videos/{name}/chunk_index" in rows[0]]
            records += [_episode_record(row, videos) for row in rows]
        except KeyError as error:
            raise CheckpointError(f"{path} lacks {error}; copy it again.") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{path} has a row that cannot be used ({error}); copy it again."
            ) from error
    records.sort(key=lambda record: record.index)
    indices = [record.index for record in records]
    if len(records) != info.total_episodes or indices != list(range(len(records))):
        raise CheckpointError(
            f"{root / _EPISODES} lists {len(records)} episodes where info.json says {info.total_episodes}; "
            "copy the dataset's meta folder again."
        )
    return tuple(records)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The table's rows without the episodes' statistics, which are most of it."""
    with open_parquet(path) as file:
        names = [name for name in file.schema_arrow.names if not name.startswith("stats/")]
        rows: list[dict[str, Any]] = read_columns(path, file, names).to_pylist()
    return rows


def _read_table(path: Path) -> pa.Table:
    with open_parquet(path) as file:
        return read_columns(path, file)


def _episode_row(
    record: EpisodeRecord, tasks: Sequence[str], stats: Mapping[str, Statistics], fps: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "episode_index": record.index,
        "tasks": list(tasks),
        "length": record.length,
        "data/chunk_index": record.data.chunk,
        "data/file_index": record.data.file,
        "dataset_from_index": record.first_frame,
        "dataset_to_index": record.first_frame + record.length,
    }
    for key, part in record.videos.items():
        row[f"videos/{key}/chunk_index"] = part.chunk
        row[f"videos/{key}/file_index"] = part.file
        row[f"videos/{key}/from_timestamp"] = part.start
        row[f"videos/{key}/to_timestamp"] = part.start + record.length / fps
    for feature, statistics in stats.items():
        for statistic, value in statistics.items():
            row[f"stats/{feature}/{statistic}"] = value.tolist()
    return {**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


def _episode_record(row: Mapping[str, Any], videos: Sequence[str]) -> EpisodeRecord:
    return EpisodeRecord(
        index=whole(row["episode_index"]),
        first_frame=whole(row["dataset_from_index"]),
        length=whole(row["length"]),
        data=FilePart(whole(row["data/chunk_index"]), whole(row["data/file_index"])),
        videos={
            key: FilePart(
                whole(row[f"videos/{key}/chunk_index"]),
                whole(row[f"videos/{key}/file_index"]),
                _seconds(row[f"videos/{key}/from_timestamp"]),
            )
            for key in videos
        },
    )
