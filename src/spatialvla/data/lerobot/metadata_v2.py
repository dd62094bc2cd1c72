"""The `meta` folder of format v2, read: JSON lines, and one data and one video file for each episode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.common.json_files import parse_value
from spatialvla.data.lerobot.metadata import EpisodeRecord, FilePart, Info, in_order, whole
from spatialvla.errors import CheckpointError

VERSIONS = ("v2.0", "v2.1")
_TASKS = "meta/tasks.jsonl"
_EPISODES = "meta/episodes.jsonl"


def read_tasks(root: Path) -> tuple[str, ...]:
    """The instructions, in order of their number.

    Raises CheckpointError naming the file when that is impossible.
    """
    path = root / _TASKS
    return in_order(((row["task_index"], row["task"]) for row in _rows(path, "task_index", "task")), path)


def read_episodes(root: Path, info: Info) -> tuple[EpisodeRecord, ...]:
    """Where each episode is, in order. Raises CheckpointError naming the file when some are missing."""
    path = root / _EPISODES
    try:
        lengths = {
            whole(row["episode_index"]): whole(row["length"])
            for row in _rows(path, "episode_index", "length")
        }
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has a row that cannot be used ({error}); copy it again.") from error
    if len(lengths) != info.total_episodes or sorted(lengths) != list(range(len(lengths))):
        raise CheckpointError(
            f"{path} lists {len(lengths)} episodes where info.json says {info.total_episodes}; copy the "
            "dataset's meta folder again."
        )
    ends = np.cumsum([lengths[index] for index in range(len(lengths))], dtype=np.int64)
    videos = [name for name, feature in info.features.items() if feature.is_video]
    records = []
    for index, end in enumerate(ends.tolist()):
        part = FilePart(index // info.files_per_chunk, index)
        records.append(
            EpisodeRecord(
                index=index,
                first_frame=end - lengths[index],
                length=lengths[index],
                data=part,
                videos=dict.fromkeys(videos, part),
            )
        )
    return tuple(records)


def _rows(path: Path, *names: str) -> list[Mapping[str, Any]]:
    try:
        # Only "\n" ends a line: a text may hold U+2028. Some editors put a byte order mark in front.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; copy the whole dataset folder.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); copy it again.") from error
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_value(line)
            rows.append({name: row[name] for name in names})
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}, line {number} cannot be read ({error!r}); copy it again."
            ) from error
    return rows
