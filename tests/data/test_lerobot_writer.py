"""What LeRobotWriter writes: the real tool's layout, nothing lost, nothing wrong let in."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spatialvla.common import files
from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter, assembly
from spatialvla.errors import CheckpointError, InputError

SAMPLE = Path(__file__).parent / "lerobot_v3"
DATA_FILE = "data/chunk-000/file-000.parquet"
EPISODES_FILE = "meta/episodes/chunk-000/file-000.parquet"
CAMERAS = ("observation.images.top", "observation.images.wrist")
NUMBERS = ("observation.state", "action")
CAMERA, DEPTH = "observation.images.front", "observation.depth.front"


def numbered_frames(length, first, size=(32, 48)):
    """Frames whose brightness tells their number."""
    level = (np.arange(first, first + length) * 5 % 256).astype(np.uint8)
    return np.broadcast_to(level[:, None, None, None], (length, *size, 3)).copy()


def write_episodes(writer, lengths, start=0):
    for index, length in enumerate(lengths):
        if index < start:
            continue
        first = sum(lengths[:index])
        action = np.arange(first, first + length, dtype=np.float32)
        writer.add_episode({CAMERA: numbered_frames(length, first), "action": action}, f"task {index % 2}")


def open_writer(root, **options):
    features = [Feature(CAMERA, "video", (32, 48, 3)), Feature("action", "float32", (1,))]
    return LeRobotWriter(root, 10, features, **options)


def write_dataset(root, lengths):
    writer = open_writer(root)
    write_episodes(writer, lengths)
    writer.finalize()


def check_episodes(root, lengths):
    dataset = LeRobotDataset(root)
    assert dataset.lengths.tolist() == list(lengths)
    assert dataset.tasks == ("task 0", "task 1")[: len(lengths)]
    for index, episode in enumerate(dataset):
        first = sum(lengths[:index])
        assert episode.instruction == f"task {index % 2}"
        np.testing.assert_array_equal(episode.columns["action"], np.arange(first, first + lengths[index]))
        decoded = episode.frames(CAMERA).astype(int)
        assert np.abs(decoded - numbered_frames(lengths[index], first)).max() <= 2


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    """The first two episodes of the real tool's dataset, written again by us."""
    root = tmp_path_factory.mktemp("rewritten")
    sample = LeRobotDataset(SAMPLE)
    own = [feature for name, feature in sample.features.items() if name in (*CAMERAS, *NUMBERS)]
    writer = LeRobotWriter(root, sample.fps, own, robot_type="widowx")
    for episode in (sample.episode(0), sample.episode(1)):
        frames = {camera: episode.frames(camera) for camera in CAMERAS}
        writer.add_episode(
            {**frames, **{name: episode.columns[name] for name in NUMBERS}}, episode.instruction
        )
    writer.finalize()
    return root


def test_same_layout_as_the_real_tool(rewritten):
    for file in (DATA_FILE, EPISODES_FILE, "meta/tasks.parquet"):
        ours, theirs = (pq.read_schema(root / file) for root in (rewritten, SAMPLE))
        assert dict(zip(ours.names, ours.types, strict=True)) == dict(
            zip(theirs.names, theirs.types, strict=True)
        )
    ours, theirs = (
        json.loads(pq.read_schema(root / DATA_FILE).metadata[b"huggingface"]) for root in (rewritten, SAMPLE)
    )
    assert ours["info"] == theirs["info"]
    ours, theirs = (json.loads((root / "meta/info.json").read_text()) for root in (rewritten, SAMPLE))
    assert list(ours) == list(theirs)
    for name, feature in theirs["features"].items():
        assert {**ours["features"][name], "info": None} == {**feature, "info": None}


def test_episode_table_agrees_with_the_real_tool(rewritten):
    ours = pq.read_table(rewritten / EPISODES_FILE)
    theirs = pq.read_table(SAMPLE / EPISODES_FILE).slice(0, 2).select(ours.column_names)
    for column in ours.column_names:
        exact = not column.startswith("stats/")
        if exact or column.endswith("/count"):
            assert ours[column].equals(theirs[column]), column
            continue
        if any(camera in column for camera in CAMERAS):
            atol = 0.05  # The pixels have been through the real tool's lossy video once.
        elif column.rsplit("/", 1)[1] in ("min", "max", "mean", "std"):
            atol = 1e-5
        else:
            continue  # The real tool reads quantiles off a histogram, ours are exact.
        for mine, real in zip(ours[column].to_pylist(), theirs[column].to_pylist(), strict=True):
            np.testing.assert_allclose(mine, real, atol=atol, err_msg=column)


def test_quantiles_of_the_dataset_are_exact(rewritten):
    stats = json.loads((rewritten / "meta/stats.json").read_text())
    states = np.concatenate([episode.columns["observation.state"] for episode in LeRobotDataset(rewritten)])
    for name, q in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        expected = np.quantile(states.astype(np.float64), q, axis=0)
        np.testing.assert_allclose(stats["observation.state"][name], expected, rtol=1e-9)


def test_several_files_and_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "DATA_FILE_MB", 0)
    monkeypatch.setattr(assembly, "VIDEO_FILE_MB", 0)
    monkeypatch.setattr(assembly, "FILES_PER_CHUNK", 2)
    lengths = (3, 1, 9, 4, 2)
    write_dataset(tmp_path, lengths)
    assert len(list(tmp_path.glob("data/chunk-*/*.parquet"))) == len(lengths)
    assert (tmp_path / "videos" / CAMERA / "chunk-002" / "file-000.mp4").exists()
    check_episodes(tmp_path, lengths)


class Killed(BaseException):
    """Not an Exception, as a kill runs no handlers."""


@pytest.mark.parametrize("renames", range(14))
def test_nothing_complete_is_lost_when_killed(tmp_path, monkeypatch, renames):
    """Killed before any of its renames, a writer can be resumed to the same dataset."""
    lengths = (4, 9, 3)
    left = [renames]
    rename = files.os.replace

    def fragile(source, target):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", fragile)
    with pytest.raises(Killed):
        write_dataset(tmp_path, lengths)
    monkeypatch.undo()
    complete = len(list(tmp_path.glob(".episodes/episode-*")))
    resumed = open_writer(tmp_path, resume=True)
    assert resumed.total_episodes == complete
    assert resumed.total_frames == sum(lengths[:complete])
    write_episodes(resumed, lengths, start=complete)
    resumed.finalize()
    check_episodes(tmp_path, lengths)
    assert not list(tmp_path.rglob("*partial*"))
    assert not list(tmp_path.glob(".episodes*"))


def test_an_unfinished_dataset_cannot_be_read_nor_overwritten(tmp_path):
    writer = open_writer(tmp_path)
    write_episodes(writer, (3,))
    with pytest.raises(CheckpointError, match="finished LeRobot dataset"):
        LeRobotDataset(tmp_path)
    with pytest.raises(InputError, match="resume=True"):
        open_writer(tmp_path)
    with pytest.raises(InputError, match="another fps"):
        LeRobotWriter(tmp_path, 10, [Feature("action", "float32", (1,))], resume=True)
    writer.finalize()
    with pytest.raises(InputError, match="already holds a dataset"):
        open_writer(tmp_path, resume=True)
    with pytest.raises(InputError, match="is finalized"):
        write_episodes(writer, (3,))


def numbers(dtype, shape):
    bounded = {"min_value": -(2.0**99), "max_value": 2.0**99} if dtype.startswith("float") else {}
    return hnp.arrays(dtype, shape, elements=hnp.from_dtype(np.dtype(dtype), **bounded))


@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    dtype=st.sampled_from(["float32", "float64", "int8", "uint16", "int64", "bool"]),
    shape=hnp.array_shapes(min_dims=1, max_dims=5, max_side=3),
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_numbers_come_back_exactly(tmp_path_factory, data, dtype, shape, lengths):
    root = tmp_path_factory.mktemp("numbers")
    episodes = [data.draw(numbers(dtype, (length, *shape))) for length in lengths]
    writer = LeRobotWriter(root, 10, [Feature("numbers", dtype, shape)])
    for values in episodes:
        writer.add_episode({"numbers": values}, "count")
    writer.finalize()
    for values, episode in zip(episodes, LeRobotDataset(root), strict=True):
        read = episode.columns["numbers"]
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read.reshape(values.shape), values)


@settings(max_examples=10, deadline=None)
@given(
    image=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.just(3))
    ),
    meters=st.floats(0.001, 65.0),
)
def test_lossless_images_and_depth_come_back(tmp_path_factory, image, meters):
    root = tmp_path_factory.mktemp("images")
    depth = (image[..., 0] / 255.0 * meters).astype(np.float32)
    features = [Feature(CAMERA, "image", image.shape[1:]), Feature(DEPTH, "depth", depth.shape[1:])]
    writer = LeRobotWriter(root, 10, features)
    writer.add_episode({CAMERA: image, DEPTH: depth}, "look")
    writer.finalize()
    episode = LeRobotDataset(root).episode(0)
    np.testing.assert_array_equal(episode.frames(CAMERA), image)
    np.testing.assert_allclose(episode.frames(DEPTH), depth, atol=0.000501)


def test_depth_without_a_reading_is_zero(tmp_path):
    depth = np.array([[[np.nan, np.inf, -1.0, 0.0, 70.0, 1.2344]]], dtype=np.float32)
    writer = LeRobotWriter(tmp_path, 10, [Feature(DEPTH, "depth", (1, 6))])
    writer.add_episode({DEPTH: depth}, "look")
    writer.finalize()
    read = LeRobotDataset(tmp_path).episode(0).frames(DEPTH)
    np.testing.assert_allclose(read, [[[0, 0, 0, 0, 0, 1.234]]], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": None}, "lacks action"),
        ({"reward": np.zeros(4)}, "has reward"),
        ({"action": np.zeros((4, 2))}, r"shape \(4, 2\)"),
        ({"action": np.zeros((5, 1))}, "equally many frames"),
        ({"action": np.array([0, 1, np.nan, 3])}, "frame 2"),
        ({"action": np.array([0, 1e300, 2, 3])}, "frame 1 is not a number that float32 can hold"),
        ({"action": np.array(["a"] * 4)}, "does not fit float32"),
        ({CAMERA: numbered_frames(4, 0) / 255.0}, "does not fit uint8"),
        ({CAMERA: numbered_frames(4, 0)[:, :16]}, r"\(T, 32, 48, 3\)"),
        ({CAMERA: numbered_frames(0, 0), "action": np.zeros(0)}, "at least one"),
    ],
)
def test_bad_episodes_are_refused_and_leave_the_dataset_whole(tmp_path, changes, message):
    writer = open_writer(tmp_path)
    write_episodes(writer, (4,))
    frames = {CAMERA: numbered_frames(4, 0), "action": np.zeros((4, 1))} | changes
    frames = {name: value for name, value in frames.items() if value is not None}
    with pytest.raises(InputError, match=message):
        writer.add_episode(frames, "task 1")
    with pytest.raises(InputError, match="no task"):
        writer.add_episode({CAMERA: numbered_frames(4, 0), "action": np.zeros((4, 1))}, " ")
    writer.finalize()
    check_episodes(tmp_path, (4,))


def test_integers_never_wrap_around(tmp_path):
    writer = LeRobotWriter(tmp_path, 10, [Feature("count", "int8", (1,))])
    with pytest.raises(InputError, match="frame 1 is not a number that int8 can hold"):
        writer.add_episode({"count": np.array([127, 128])}, "count")


@pytest.mark.parametrize(
    ("features", "fps", "message"),
    [
        ([], 10, "at least one feature"),
        ([("a", "float32", (1,)), ("a", "int64", (2,))], 10, "differ"),
        ([("index", "int64", (1,))], 10, "differ"),
        ([("a/b", "int64", (1,))], 10, "without '/'"),
        ([("a", "string", (1,))], 10, "is text"),
        ([("a", "complex64", (1,))], 10, "complex64"),
        ([("a", "float32", ())], 10, "1 to 5 dimensions"),
        ([("a", "float32", (0,))], 10, "positive"),
        ([("a", "video", (4, 4))], 10, r"\(H, W, 3\)"),
        ([("a", "depth", (4, 4, 1))], 10, r"\(H, W\)"),
        ([("a", "video", (5, 4, 3))], 10, "even sizes"),
        ([("a", "float32", (1,))], 0, "whole number"),
        ([("a", "float32", (1,))], 12.5, "whole number"),
    ],
)
def test_bad_features_are_refused(tmp_path, features, fps, message):
    with pytest.raises(InputError, match=message):
        LeRobotWriter(tmp_path, fps, [Feature(*feature) for feature in features])


def test_finalizing_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no episodes"):
        open_writer(tmp_path).finalize()


def test_a_full_disk_is_a_clear_error(tmp_path, monkeypatch):
    writer = open_writer(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(InputError, match="full; free some space, then resume"):
        write_episodes(writer, (3,))
    monkeypatch.undo()
    write_episodes(writer, (3,))
    writer.finalize()
    check_episodes(tmp_path, (3,))
