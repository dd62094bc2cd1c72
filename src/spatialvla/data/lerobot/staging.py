"""Complete episodes waiting to be joined: one folder each, which exists either whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from spatialvla.common.json_files import read_json, write_json
from spatialvla.data.lerobot import depth_video, image_files, video
from spatialvla.data.lerobot.features import data_schema
from spatialvla.data.lerobot.metadata import Info
from spatialvla.data.lerobot.parquet_files import write_parquet
from spatialvla.data.lerobot.stats import Statistics, image_statistics, number_statistics

_DESCRIPTION = "episode.json"


@dataclass(frozen=True)
class StagedEpisode:
    """An episode of `length` frames: data.parquet and a video file per camera in `folder`.

    tasks: the instructions of its frames, each once.
    """

    folder: Path
    tasks: tuple[str, ...]
    length: int
    stats: Mapping[str, Statistics]

    @property
    def data(self) -> Path:
        """Its parquet file."""
        return self.folder / "data.parquet"

    def video(self, name: str) -> Path:
        """The file of a camera, by its feature's name."""
        return self.folder / f"{name}.mp4"


def stage(
    staging: Path, info: Info, values: Mapping[str, np.ndarray], tasks: tuple[str, ...]
) -> StagedEpisode:
    """Write checked values (T, *shape) of all features as the folder of a new episode."""
    index, length = int(values["episode_index"][0]), len(values["episode_index"])
    folder = staging / f"episode-{index:06d}"
    partial = StagedEpisode(staging / ".partial", tasks, length, {})
    shutil.rmtree(partial.folder, ignore_errors=True)
    partial.folder.mkdir(parents=True)
    schema = data_schema(list(info.features.values()))
    columns: dict[str, pa.Array] = {}
    stats: dict[str, Statistics] = {}
    for name, feature in info.features.items():
        value = values[name]
        if feature.dtype == "video":
            video.encode(value, info.fps, partial.video(name))
        elif feature.dtype == "depth_video":
            quantization = depth_video.DepthQuantization.from_info(feature.info)
            codes = quantization.quantize(value)
            depth_video.encode(codes, info.fps, partial.video(name))
            value = quantization.dequantize(codes)
        elif feature.dtype == "image":
            columns[name] = _file_column(image_files.encode_rgb(value), schema.field(name).type)
        elif feature.dtype == "depth":
            value = image_files.to_millimeters(value)
            columns[name] = _file_column(image_files.encode_depth(value), schema.field(name).type)
        else:
            columns[name] = feature.to_arrow(value)
        if feature.is_number:
            stats[name] = number_statistics(value)
        else:
            stats[name] = image_statistics(value, scale=1.0 if feature.is_depth else 255.0)
    write_parquet(partial.data, [pa.table(columns, schema=schema)], schema)
    stored = {name: {key: entry.tolist() for key, entry in part.items()} for name, part in stats.items()}
    write_json(
        partial.folder / _DESCRIPTION, {"tasks": tasks, "length": length, "stats": stored}, checksum=True
    )
    os.replace(partial.folder, folder)
    return StagedEpisode(folder, tasks, length, stats)


def staged_episodes(staging: Path) -> list[StagedEpisode]:
    """The complete episodes an earlier writer left, in order."""
    episodes = []
    for folder in sorted(staging.glob("episode-*")):
        described = read_json(folder / _DESCRIPTION)
        stats = {
            name: {key: np.array(entry) for key, entry in part.items()}
            for name, part in described["stats"].items()
        }
        episodes.append(StagedEpisode(folder, tuple(described["tasks"]), described["length"], stats))
    return episodes


def _file_column(files: list[bytes], arrow_type: pa.DataType) -> pa.Array:
    return pa.array([{"bytes": file, "path": None} for file in files], type=arrow_type)
