"""Damaged LeRobot datasets: every flipped byte of what we wrote is seen and its file named, or changes nothing."""

import contextlib
import io
import random
import shutil
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spatialvla.common.seals import is_whole
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.reader import LeRobotDataset
from spatialvla.data.sources import open_source
from spatialvla.errors import CheckpointError, InputError

TOP = "observation.images.top"
DEPTH = "observation.depth.top"
FILES = {
    "data": "data/chunk-000/file-000.parquet",
    "video": f"videos/{TOP}/chunk-000/file-000.mp4",
    "tasks": "meta/tasks.parquet",
    "episodes": "meta/episodes/chunk-000/file-000.parquet",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written") / "d"
    rng = np.random.default_rng(0)
    features = [
        Feature(TOP, "video", (32, 32, 3)),
        Feature(DEPTH, "depth", (8, 8)),
        Feature("action", "float32", (7,)),
    ]
    writer = LeRobotWriter(root, 10, features)
    for task in ("pick up the cube", "open the drawer"):
        frames = {
            TOP: rng.integers(0, 255, (6, 32, 32, 3), np.uint8),
            DEPTH: rng.uniform(0.5, 2, (6, 8, 8)).astype(np.float32),
            "action": rng.normal(0, 0.01, (6, 7)).astype(np.float32),
        }
        writer.add_episode(frames, task)
    writer.finalize()
    return root


def everything(root: Path) -> list[object]:
    dataset = LeRobotDataset(root)
    found: list[object] = [dataset.info, dataset.tasks]
    for episode in dataset:
        found += [episode.instructions, {k: v.tobytes() for k, v in episode.columns.items()}]
        found += [episode.frames(TOP).tobytes(), episode.frames(DEPTH).tobytes()]
    return found


@pytest.mark.parametrize("kind", FILES)
def test_flipped_bytes_are_seen_and_named(written, tmp_path, kind):
    root = Path(shutil.copytree(written, tmp_path / "d"))
    path, draw = root / FILES[kind], random.Random(kind)
    whole, expected, seen = path.read_bytes(), everything(root), 0
    positions = draw.sample(range(len(whole)), 50) + list(range(len(whole) - 20, len(whole)))
    for position in positions:
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ draw.randrange(1, 256)]) + whole[position + 1 :]
        )
        try:
            assert everything(root) == expected
        except CheckpointError as error:
            seen += path.name in str(error)
    assert seen >= 54  # all but what tells that there is a checksum, which nothing else needs


def test_every_bit_of_a_parquet_file_is_covered(written):
    """Where the checksum passes, arrow reads the same, or nothing at all."""
    whole = (written / FILES["tasks"]).read_bytes()
    expected, passed = pq.read_table(io.BytesIO(whole)), 0
    for position in range(len(whole)):
        for bit in range(8):
            changed = whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :]
            if is_whole(io.BytesIO(changed)):
                passed += 1
                with contextlib.suppress(OSError, pa.ArrowException):
                    assert pq.read_table(io.BytesIO(changed)).equals(expected)
    assert 0 < passed <= 8 * (8 + 8)  # of the mark, the footer's length and the last four letters


def test_other_programs_read_what_has_a_checksum(written):
    assert pq.read_table(written / FILES["data"]).num_rows == 12
    with av.open(str(written / FILES["video"])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 12


def test_files_that_other_programs_have_rewritten_are_read(written, tmp_path):
    root = Path(shutil.copytree(written, tmp_path / "d"))
    path = root / FILES["data"]
    pq.write_table(pq.read_table(path), path)
    assert everything(root) == everything(written)


def test_a_dataset_with_damage_says_so_where_it_is_opened_or_trained_on(written, tmp_path):
    root = Path(shutil.copytree(written, tmp_path / "d"))
    path = root / FILES["video"]
    content = path.read_bytes()
    path.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
    episode = open_source(root).episode(0)
    with pytest.raises(
        (CheckpointError, InputError), match=r"file-000\.mp4 has other contents than were written"
    ):
        episode.images([0])
