"""A row's frame is found by the row's time, as LeRobot does: at any rate, in trimmed and thinned episodes."""

import json
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.sources import open_source
from spatialvla.errors import CheckpointError

TOP = "observation.images.top"
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
LENGTH = 50


def levels(count=LENGTH):
    """Frame k is of the grey 8 + 4 k."""
    return np.stack([np.full((64, 64, 3), 8 + 4 * k, np.uint8) for k in range(count)])


def write(root, fps=10, episodes=1):
    features = [Feature(TOP, "video", (64, 64, 3)), Feature("action", "float32", (7,))]
    writer = LeRobotWriter(root, fps, features)
    for _ in range(episodes):
        writer.add_episode({TOP: levels(), "action": np.full((LENGTH, 7), 0.01, np.float32)}, "pick")
    writer.finalize()
    return root


def edit(root, **columns):
    """Other numbers in the data's columns."""
    table = pq.read_table(root / DATA)
    for name, values in columns.items():
        table = table.set_column(table.schema.names.index(name), name, pa.array(values))
    pq.write_table(table, root / DATA)


def shown(root, index=0):
    episode = open_source(root).episode(index)
    images = [episode.images([step])[0] for step in range(len(episode))]
    np.testing.assert_array_equal(episode.images(range(len(episode))), images)
    return [round((float(image.mean()) - 8) / 4) for image in images]


@pytest.mark.parametrize("kept", [[*range(20, 50)], [*range(10), *range(15, 50)]])
def test_episodes_trimmed_or_thinned_in_the_table_alone_show_their_frames(tmp_path, kept):
    root = write(tmp_path / "d")
    pq.write_table(pq.read_table(root / DATA).take(kept), root / DATA)
    edit(root, frame_index=np.arange(len(kept)), index=np.arange(len(kept)))
    rows = pq.read_table(root / EPISODES).to_pylist()
    rows[0].update(length=len(kept), dataset_to_index=len(kept))
    pq.write_table(pa.Table.from_pylist(rows), root / EPISODES)
    assert shown(root) == kept


def rewrite_video(root, rate, first=0):
    (path,) = root.rglob("*.mp4")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "1", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for number, pixels in enumerate(levels()):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + first, 1 / Fraction(rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.mark.parametrize("seconds", [1001 / 30000, 1 / 29.97])
def test_a_rate_that_is_not_whole(tmp_path, seconds):
    root = write(tmp_path / "d", 30)
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"fps": 29.97}))
    rewrite_video(root, Fraction(30000, 1001))
    edit(root, timestamp=(np.arange(LENGTH) * seconds).astype(np.float32))
    assert open_source(root).control_hz == 29.97
    assert shown(root) == [*range(LENGTH)]


@pytest.mark.parametrize("timestamps_start_late", [False, True])
def test_a_file_whose_first_frame_is_late(tmp_path, timestamps_start_late):
    root = write(tmp_path / "d")
    rewrite_video(root, 10, first=3)
    with av.open(str(next(root.rglob("*.mp4")))) as file:
        if not file.streams.video[0].start_time:
            pytest.skip("the container starts at 0")
    if timestamps_start_late:
        edit(root, timestamp=((np.arange(LENGTH) + 3) / 10).astype(np.float32))
    assert shown(root) == [*range(LENGTH)]


@pytest.mark.parametrize(
    ("timestamps", "sentence"),
    [
        (np.zeros(LENGTH), "do not ascend"),
        (np.arange(LENGTH) / 10 + 1e9, "no frame at second"),
        (np.arange(LENGTH) / 5, r"no frame at second 5\.0"),
        (np.full(LENGTH, np.nan), "do not ascend"),
    ],
)
def test_times_at_which_there_is_no_frame_are_refused(tmp_path, timestamps, sentence):
    root = write(tmp_path / "d")
    edit(root, timestamp=timestamps)
    with pytest.raises(CheckpointError, match=sentence):
        open_source(root).episode(0).images(range(LENGTH))


@pytest.mark.parametrize("index", [0, 1])
def test_a_length_that_is_shorter_than_what_is_stored_is_damage(tmp_path, index):
    root = write(tmp_path / "d", episodes=2)
    rows = pq.read_table(root / EPISODES).to_pylist()
    rows[index]["length"] -= 5
    pq.write_table(pa.Table.from_pylist(rows), root / EPISODES)
    source = open_source(root)
    with pytest.raises(CheckpointError, match=f"50 frames of episode {index}, whose length is 45"):
        source.episode(index)
    assert len(source.episode(1 - index)) == LENGTH
