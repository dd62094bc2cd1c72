"""Rows of parquet files that are kept: those of the file as it is now, and no more than there is room for."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from spatialvla.data.lerobot import recent_tables
from spatialvla.data.lerobot.parquet_files import write_parquet
from spatialvla.data.lerobot.recent_tables import RecentTables, RowGroups


def write(path, start):
    """Three row groups of 4, 5 and 6 rows that count on from a start."""
    schema = pa.schema([("number", pa.int64()), ("half", pa.float64())])
    tables, first = [], start
    for size in (4, 5, 6):
        numbers = np.arange(first, first + size)
        tables.append(pa.table({"number": numbers, "half": numbers / 2}, schema=schema))
        first += size
    write_parquet(path, tables, schema)


@pytest.mark.parametrize(
    ("first", "length", "groups", "before"),
    [(0, 15, (0, 1, 2), 0), (4, 5, (1,), 4), (3, 2, (0, 1), 0), (8, 7, (1, 2), 4), (9, 1, (2,), 9)],
)
def test_the_groups_around_rows(first, length, groups, before):
    assert RowGroups(("number",), np.array([4, 9, 15])).around(first, length) == (groups, before)


def test_a_file_that_changed_is_read_again(tmp_path, monkeypatch):
    path, tables = tmp_path / "a.parquet", RecentTables()
    write(path, 0)
    reads = []
    original = recent_tables.read_columns
    monkeypatch.setattr(
        recent_tables, "read_columns", lambda *given: [reads.append(given[2:]), original(*given)][1]
    )
    for _ in range(3):
        assert tables.read(path, ["number"], [1])["number"].to_pylist() == [4, 5, 6, 7, 8]
    assert len(reads) == 1
    assert tables.read(path, ["half"], [0])["half"].to_pylist() == [0.0, 0.5, 1.0, 1.5]
    write(path, 100)
    assert tables.read(path, ["number"], [1])["number"].to_pylist() == [104, 105, 106, 107, 108]
    assert tables.row_groups(path).ends.tolist() == [4, 9, 15]


def test_no_more_is_kept_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(recent_tables, "_TABLE_BYTES", 100)
    path, tables = tmp_path / "a.parquet", RecentTables()
    write(path, 0)
    for group in (0, 1, 0, 2, 1):
        tables.read(path, ["number"], [group])
        kept = tables._tables
        assert kept._taken == sum(size for _, size in kept._held.values()) <= 100
    tables.read(path, ["number", "half"], [0, 1, 2])
    assert kept._taken <= 100


def test_threads_share_what_is_kept():
    kept = recent_tables._Recent(400, lambda _: 100)

    def ask(thread):
        numbers = np.random.default_rng(thread).integers(6, size=300).tolist()
        return all(kept.get(number, partial(made, number)) == number for number in numbers)

    def made(number):
        time.sleep(0)  # lets another thread make the same
        return number

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))
    assert kept._taken == 100 * len(kept._held) == 400
