"""Join staged episodes into the files of the format: many episodes to a data or video file, then `meta`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spatialvla.common.files import replacing, sweep
from spatialvla.data.lerobot import video
from spatialvla.data.lerobot.features import Feature
from spatialvla.data.lerobot.metadata import (
    DATA_FILE_MB,
    FILES_PER_CHUNK,
    VIDEO_FILE_MB,
    VIDEO_PATH,
    EpisodeRecord,
    FilePart,
    Info,
    write_episodes,
    write_info,
    write_stats,
    write_tasks,
)
from spatialvla.data.lerobot.parquet_files import read_parquet, write_parquet
from spatialvla.data.lerobot.staging import StagedEpisode
from spatialvla.data.lerobot.stats import Statistics, combine, number_statistics


def assemble(root: Path, info: Info, episodes: Sequence[StagedEpisode]) -> None:
    """Write the whole dataset; info.json comes last, so the dataset is there only when all of it is."""
    sweep(root, below=True)
    data = _join_data(root, info, episodes)
    cameras = [name for name, feature in info.features.items() if feature.is_video]
    videos = {name: _join_videos(root, info.fps, name, episodes) for name in cameras}
    first_frames = [0, *accumulate(episode.length for episode in episodes)]
    records = [
        EpisodeRecord(
            index=index,
            first_frame=first_frames[index],
            length=episode.length,
            data=data[index],
            videos={name: videos[name][index] for name in cameras},
        )
        for index, episode in enumerate(episodes)
    ]
    words = [episode.tasks for episode in episodes]
    tasks = list(dict.fromkeys(text for texts in words for text in texts))
    write_episodes(root, records, words, [episode.stats for episode in episodes], info.fps)
    write_tasks(root, tasks)
    write_stats(root, {name: _dataset_stats(feature, episodes) for name, feature in info.features.items()})
    write_info(
        root,
        replace(info, total_episodes=len(episodes), total_frames=first_frames[-1], total_tasks=len(tasks)),
    )


def _join_data(root: Path, info: Info, episodes: Sequence[StagedEpisode]) -> list[FilePart]:
    """Data files with one row group an episode, which lets a reader fetch single episodes."""
    parts: list[FilePart] = []
    groups = _groups([episode.data for episode in episodes], DATA_FILE_MB)
    for number, group in enumerate(groups):
        chunk, file = divmod(number, FILES_PER_CHUNK)
        target = root / info.data_path.format(chunk_index=chunk, file_index=file)
        schema = read_parquet(group[0], partial(pq.read_schema, group[0]))
        with replacing(target) as path:
            write_parquet(path, (_staged(source) for source in group), schema)
        parts += [FilePart(chunk, file)] * len(group)
    return parts


def _join_videos(root: Path, fps: float, name: str, episodes: Sequence[StagedEpisode]) -> list[FilePart]:
    lengths = iter(episode.length for episode in episodes)
    parts: list[FilePart] = []
    for number, group in enumerate(_groups([episode.video(name) for episode in episodes], VIDEO_FILE_MB)):
        chunk, file = divmod(number, FILES_PER_CHUNK)
        target = root / VIDEO_PATH.format(video_key=name, chunk_index=chunk, file_index=file)
        counts = [next(lengths) for _ in group]
        with replacing(target) as path:
            video.concatenate(group, counts, fps, path)
        parts += [FilePart(chunk, file, start / fps) for start in (0, *accumulate(counts[:-1]))]
    return parts


def _groups(sources: Sequence[Path], limit_mb: int) -> list[list[Path]]:
    """Consecutive sources that together stay under the limit, or are alone."""
    groups: list[list[Path]] = []
    size = 0
    for source in sources:
        added = source.stat().st_size
        if not groups or size + added > limit_mb * 1024**2:
            groups.append([])
            size = 0
        groups[-1].append(source)
        size += added
    return groups


def _dataset_stats(feature: Feature, episodes: Sequence[StagedEpisode]) -> Statistics:
    """Over all frames for numbers, whose quantiles matter for normalizing; from the episodes' for images."""
    if not feature.is_number:
        return combine([episode.stats[feature.name] for episode in episodes])
    columns = [_staged(episode.data, feature.name)[feature.name] for episode in episodes]
    return number_statistics(np.concatenate([feature.from_arrow(column) for column in columns]))


def _staged(path: Path, *columns: str) -> pa.Table:
    """An episode's rows, of some columns or all. Raises CheckpointError where they are damaged."""
    return read_parquet(path, lambda: pq.read_table(path, columns=list(columns) or None))
