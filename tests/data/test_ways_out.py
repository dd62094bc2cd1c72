"""Names in a dataset's text that lead out of its folder, and templates that ask for more than numbers."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rh20t_writer as make

from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter
from spatialvla.data.rh20t.layout import Scene, calibration_folder
from spatialvla.errors import CheckpointError

TOP = "observation.images.top"


@pytest.fixture
def dataset(tmp_path) -> Path:
    features = [Feature(TOP, "video", (16, 16, 3)), Feature("action", "float32", (7,))]
    writer = LeRobotWriter(tmp_path / "d", 10, features)
    frames = {TOP: np.zeros((3, 16, 16, 3), np.uint8), "action": np.zeros((3, 7), np.float32)}
    writer.add_episode(frames, "pick")
    writer.finalize()
    return tmp_path / "d"


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ("data_path", "../secret/file-{file_index:03d}.parquet"),
        ("data_path", "/etc/passwd"),
        ("video_path", "videos/../../{video_key}.mp4"),
        ("video_path", "C:\\{video_key}.mp4"),
        ("data_path", "{chunk_index.__class__}"),
        ("data_path", "{chunk_index!r}"),
        ("data_path", "{0}"),
        ("video_path", "{video_key.__class__.__mro__}"),
        ("video_path", "{self}"),
        ("data_path", "{chunk_index:03000000000d}"),
        ("data_path", 5),
    ],
)
def test_paths_of_info_json(dataset, entry, path):
    file = dataset / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {entry: path}))
    with pytest.raises(CheckpointError, match=r"info\.json") as raised:
        LeRobotDataset(dataset)
    assert "\n" not in str(raised.value)


def test_a_camera_named_as_a_way_out(dataset):
    file = dataset / "meta/info.json"
    info = json.loads(file.read_text())
    info["features"]["../../secret"] = info["features"].pop(TOP)
    file.write_text(json.dumps(info))
    assert LeRobotDataset(dataset).absent == ("../../secret",), "the table of episodes knows no such camera"
    table = dataset / "meta/episodes/chunk-000/file-000.parquet"
    episodes = pq.read_table(table)
    names = [name.replace(f"/{TOP}/", "/../../secret/") for name in episodes.column_names]
    pq.write_table(episodes.rename_columns(names), table)
    with pytest.raises(CheckpointError, match="secret"):
        LeRobotDataset(dataset)


@pytest.mark.parametrize("name", ["../../secret", "/etc", "..", "a/../../.."])
def test_rh20ts_calibration(tmp_path, name):
    scene = Scene(tmp_path / "cfg" / make.scene(1, 1), *_rest_of_scene())
    with pytest.raises(CheckpointError, match=r"metadata\.json names a calibration elsewhere"):
        calibration_folder(scene, name)
    assert calibration_folder(scene, "1234") == tmp_path / "cfg/calib/1234"


def _rest_of_scene() -> tuple[object, ...]:
    return (None,) * (len(fields(Scene)) - 1)
