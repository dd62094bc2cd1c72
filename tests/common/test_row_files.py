"""Arrays mapped from files: damage of a row is seen when it is read, all else when the file is opened."""

import multiprocessing
import shutil

import numpy as np
import pytest

from spatialvla.common.row_files import RowFile, writing_rows
from spatialvla.errors import CheckpointError

SHAPE = (4, 3)


def written(path):
    with writing_rows(path, SHAPE, np.float32) as rows:
        rows[1:3] = np.arange(6).reshape(2, 3)
    return RowFile(path, SHAPE, np.float32)


def test_rows_come_back(tmp_path):
    rows = written(tmp_path / "a.npy")
    assert rows.rows([2, 0, 1, 2]).tolist() == [[3, 4, 5], [0, 0, 0], [0, 1, 2], [3, 4, 5]]
    assert rows.rows([]).shape == (0, 3)
    np.testing.assert_array_equal(
        np.load(tmp_path / "a.npy"), rows.rows(range(4))
    )  # for any other program, too


def test_a_broken_off_array_leaves_nothing_behind(tmp_path):
    def break_off():
        with writing_rows(tmp_path / "a.npy", SHAPE, np.float32) as rows:
            rows[:2] = np.ones((2, 3))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        break_off()
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(CheckpointError, match="free"),
        writing_rows(tmp_path / "a.npy", (10**9, 10**6), np.float32),
    ):
        pass


def test_rows_that_nobody_assigns_need_no_room(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * 12)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with writing_rows(tmp_path / "a.npy", SHAPE, np.float32, 2) as rows:
        rows[1:3] = np.ones((2, 3))
    assert RowFile(tmp_path / "a.npy", SHAPE, np.float32).rows([0, 1]).tolist() == [[0, 0, 0], [1, 1, 1]]
    with (
        pytest.raises(CheckpointError, match="free"),
        writing_rows(tmp_path / "b.npy", SHAPE, np.float32, 3),
    ):
        pass


def test_every_flipped_bit_is_seen_or_changes_nothing(tmp_path):
    path = tmp_path / "a.npy"
    expected = written(path).rows(range(4))
    whole, seen = path.read_bytes(), 0
    for position in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            try:
                np.testing.assert_array_equal(RowFile(path, SHAPE, np.float32).rows(range(4)), expected)
            except CheckpointError:
                seen += 1
    assert seen > 8 * (len(whole) - 128)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"x" * 1000])
def test_what_is_no_such_file(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.npy is damaged \("):
        RowFile(tmp_path / "a.npy", SHAPE, np.float32)


def test_half_a_file_and_another_array(tmp_path):
    written(tmp_path / "a.npy")
    with pytest.raises(CheckpointError, match="it holds another array than was written"):
        RowFile(tmp_path / "a.npy", (4, 2), np.float32)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        RowFile(tmp_path / "a.npy", SHAPE, np.float32)


def test_what_a_killed_process_left_is_removed_and_not_what_a_living_one_writes(tmp_path):
    path, killed = tmp_path / "a.npy", tmp_path / ".partial-1-a.npy"
    killed.write_bytes(b"half")
    with writing_rows(path, SHAPE, np.float32) as rows:
        rows[:2] = np.ones((2, 3))
        assert not killed.exists()
        # Another process writes the same file meanwhile.
        other = multiprocessing.get_context("fork").Process(target=written, args=(path,))
        other.start()
        other.join(60)
        assert other.exitcode == 0
        assert RowFile(path, SHAPE, np.float32).rows([1]).tolist() == [[0, 1, 2]]
    assert RowFile(path, SHAPE, np.float32).rows([1]).tolist() == [[1, 1, 1]]
    assert list(tmp_path.iterdir()) == [path]
