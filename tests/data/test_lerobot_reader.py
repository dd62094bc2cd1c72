"""Reading a dataset that the real lerobot wrote, against what the real lerobot reads from it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from spatialvla.data.lerobot import LeRobotDataset
from spatialvla.data.lerobot.video import encode
from spatialvla.errors import CheckpointError, InputError

HERE = Path(__file__).parent
SAMPLE = HERE / "lerobot_v3"
GOLDEN = json.loads((HERE / "lerobot_v3_golden.json").read_text())
CAMERAS = ("observation.images.top", "observation.images.wrist")


@pytest.fixture(scope="module")
def dataset():
    return LeRobotDataset(SAMPLE)


def test_metadata_agrees_with_lerobot(dataset):
    assert len(dataset) == GOLDEN["episodes"]
    assert dataset.info.total_frames == GOLDEN["frames"]
    assert dataset.lengths.tolist() == GOLDEN["lengths"]
    assert dataset.fps == GOLDEN["fps"]
    assert list(dataset.tasks) == GOLDEN["tasks"]
    assert dataset.info.robot_type == "widowx"
    assert dataset.features["action"].names == ("x", "y", "z", "rx", "ry", "rz", "gripper")


@pytest.mark.parametrize("number", GOLDEN["items"])
def test_frames_agree_with_lerobot(dataset, number):
    seen = GOLDEN["items"][number]
    episode = dataset.episode(seen["episode_index"])
    row = seen["frame_index"]
    assert episode.instructions[row] == seen["task"] == dataset.instruction(episode.index)
    for name, values in episode.columns.items():
        np.testing.assert_allclose(values[row], seen[name], rtol=1e-6, err_msg=name)
    for camera in CAMERAS:
        frames = episode.frames(camera)
        assert frames.shape == (60, 256, 256, 3)
        assert frames.dtype == np.uint8
        difference = np.abs(frames[:, ::16, ::16].astype(int) - np.array(seen[camera])).mean(axis=(1, 2, 3))
        assert difference[row] < 0.5
        assert np.argmin(difference) == row, "the frames are shifted in time"


def test_columns_continue_from_episode_to_episode(dataset):
    columns = [episode.columns for episode in dataset]
    np.testing.assert_array_equal(np.concatenate([c["index"] for c in columns]), np.arange(300))
    np.testing.assert_allclose(columns[4]["timestamp"], np.arange(60) / 5, atol=1e-6)
    assert columns[2]["observation.state"].shape == (60, 8)
    assert columns[2]["action"].dtype == np.float32


@pytest.fixture
def copied(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "dataset")
    return tmp_path / "dataset"


def read_everything(root):
    for episode in LeRobotDataset(root):
        for camera in episode.cameras:
            episode.frames(camera)


FILES = sorted(
    path.relative_to(SAMPLE).as_posix()
    for path in SAMPLE.rglob("*")
    if path.is_file() and path.name != "stats.json"
)


@pytest.mark.parametrize("file", FILES)
def test_a_truncated_file_is_an_error_that_names_it(copied, file):
    content = (copied / file).read_bytes()
    (copied / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=Path(file).name):
        read_everything(copied)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_an_error_that_names_it_when_opening(copied, file):
    (copied / file).unlink()
    name = "meta/episodes" if "episodes" in file else file
    with pytest.raises(CheckpointError, match=name):
        LeRobotDataset(copied)


def test_features_of_unknown_kinds_are_left_out_and_channels_may_come_first(copied):
    info = json.loads((copied / "meta/info.json").read_text())
    info["features"]["language_events"] = {"dtype": "language", "shape": [1], "names": None}
    info["features"][CAMERAS[0]]["shape"] = [3, 256, 256]
    info["features"][CAMERAS[1]]["info"]["is_depth_map"] = True
    (copied / "meta/info.json").write_text(json.dumps(info))
    episode = LeRobotDataset(copied).episode(0)
    assert list(episode.cameras) == [CAMERAS[0]]
    assert LeRobotDataset(copied).features[CAMERAS[0]].shape == (256, 256, 3)
    assert "language_events" not in episode.columns


def test_another_format_version_is_an_error(copied):
    info = json.loads((copied / "meta/info.json").read_text())
    (copied / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    with pytest.raises(CheckpointError, match=r"v1\.6"):
        LeRobotDataset(copied)


def test_metadata_of_another_dataset_is_an_error(copied):
    info = json.loads((copied / "meta/info.json").read_text())
    (copied / "meta/info.json").write_text(json.dumps({**info, "total_episodes": 6}))
    with pytest.raises(CheckpointError, match=r"5 episodes where info\.json says 6"):
        LeRobotDataset(copied)


def test_unknown_episode_and_camera(dataset):
    with pytest.raises(InputError, match="episodes 0 to 4"):
        dataset.episode(5)
    with pytest.raises(InputError, match=r"observation\.images\.top"):
        dataset.episode(0).frames("observation.images.left")


DATA_V21 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_V21 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


@pytest.fixture(scope="module")
def v21(dataset, tmp_path_factory):
    """The first episodes of the sample in the layout of v2.1: two files a chunk."""
    root = tmp_path_factory.mktemp("v21") / "dataset"
    info = json.loads((SAMPLE / "meta/info.json").read_text())
    info |= {"codebase_version": "v2.1", "total_episodes": 3, "total_frames": 180, "chunks_size": 2}
    info |= {"data_path": DATA_V21, "video_path": VIDEO_V21}
    table = pq.read_table(SAMPLE / "data/chunk-000/file-000.parquet")
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tasks = [{"task_index": number, "task": task} for number, task in enumerate(dataset.tasks)]
    episodes = [{"episode_index": k, "tasks": [dataset.instruction(k)], "length": 60} for k in range(3)]
    for name, rows in (("tasks", tasks), ("episodes", episodes)):
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for k in range(3):
        place = {"episode_chunk": k // 2, "episode_index": k}
        path = root / DATA_V21.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(60 * k, 60), path)
        for camera in CAMERAS:
            path = root / VIDEO_V21.format(video_key=camera, **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            encode(dataset.episode(k).frames(camera), dataset.fps, path)
    return root


def test_format_v21_reads_the_same(dataset, v21):
    old = LeRobotDataset(v21)
    assert len(old) == 3
    assert old.tasks == dataset.tasks
    for k in range(3):
        one, two = old.episode(k), dataset.episode(k)
        assert one.instruction == two.instruction
        assert one.columns.keys() == two.columns.keys()
        for name, values in two.columns.items():
            np.testing.assert_array_equal(one.columns[name], values)
        frames, original = one.frames(CAMERAS[1]), two.frames(CAMERAS[1])
        assert frames.shape == original.shape
        assert np.abs(frames.astype(int) - original).mean() < 4  # encoded twice


def test_a_broken_line_of_format_v21_is_named(v21, tmp_path):
    root = Path(shutil.copytree(v21, tmp_path / "dataset"))
    path = root / "meta/episodes.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-9], lines[2]]))
    with pytest.raises(CheckpointError, match=r"episodes\.jsonl, line 2 cannot be read"):
        LeRobotDataset(root)
    path.write_text(lines[0])
    with pytest.raises(CheckpointError, match=r"lists 1 episodes where info\.json says 3"):
        LeRobotDataset(root)
