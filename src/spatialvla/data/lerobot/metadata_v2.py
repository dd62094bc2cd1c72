"""The `meta` folder of format v2, read: JSON lines, and one data and one video file for each episode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.data.lerobot.metadata import EpisodeRecord, FilePart, Info
from spatialvla.errors import CheckpointError

VERSIONS = ("v2.0", "v2.1")
_TASKS = "meta/tasks.jsonl"
_EPISODES = "meta/episodes.jsonl"


def read_tasks(root: Path) -> tuple[str, ...]:
    """The instructions, in order of their number.

    Raises CheckpointError naming the file when that is impossible.
    """
    rows = _rows(root / _TASKS, "task_index", "task")
    return tuple(row["task"] for row in sorted(rows, key=lambda row: int(row["task_index"])))


def read_episodes(root: Path, info: Info) -> tuple[EpisodeRecord, ...]:
    """Where each episode is, in order. Raises CheckpointError naming the file when some are missing."""
    path = root / _EPISODES
    rows = sorted(_rows(path, "episode_index", "length", "tasks"), key=lambda row: int(row["episode_index"]))
    if [row["episode_index"] for row in rows] != list(range(info.total_episodes)):
        raise CheckpointError(
            f"{path} lists {len(rows)} episodes where info.json says {info.total_episodes}; copy the "
            "dataset's meta folder again."
        )
    ends = np.cumsum([row["length"] for row in rows])
    videos = [name for name, feature in info.features.items() if feature.dtype == "video"]
    records = []
    for row, end in zip(rows, ends.tolist(), strict=True):
        part = FilePart(row["episode_index"] // info.files_per_chunk, row["episode_index"])
        records.append(
            EpisodeRecord(
                index=row["episode_index"],
                task=row["tasks"][0] if row["tasks"] else "",
                first_frame=end - row["length"],
                length=row["length"],
                data=part,
                videos=dict.fromkeys(videos, part),
            )
        )
    return tuple(records)


def _rows(path: Path, *names: str) -> list[Mapping[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; copy the whole dataset folder.") from error
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({name: row[name] for name in names})
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}, line {number} cannot be read ({error!r}); copy it again."
            ) from error
    return rows
