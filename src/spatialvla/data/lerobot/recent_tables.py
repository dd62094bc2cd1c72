"""Rows of parquet files, the last ones of a process kept, for samples drawn from all over a dataset."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from spatialvla.common.files import file_state
from spatialvla.data.lerobot.parquet_files import open_parquet, read_columns, read_parquet

T = TypeVar("T")

_TABLE_BYTES = 64 * 2**20
_FOOTERS = 4_096


@dataclass(frozen=True)
class RowGroups:
    """What a file's footer tells. columns: their names. ends: (G,) rows of the file up to the end of each group."""

    columns: tuple[str, ...]
    ends: np.ndarray

    @property
    def rows(self) -> int:
        """Of the whole file."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def around(self, first: int, length: int) -> tuple[tuple[int, ...], int]:
        """The groups that hold some of `length` rows from the row `first` on, and the rows before these groups."""
        starts = np.concatenate([[0], self.ends[:-1]])
        wanted = np.flatnonzero((self.ends > first) & (starts < first + length))
        return tuple(wanted.tolist()), int(starts[wanted[0]]) if len(wanted) else first


class RecentTables:
    """Reads row groups. Raises CheckpointError, naming the file, where it is broken."""

    def __init__(self) -> None:
        self._footers: _Recent[RowGroups] = _Recent(_FOOTERS, lambda _: 1)
        self._tables: _Recent[pa.Table] = _Recent(_TABLE_BYTES, lambda table: int(table.nbytes))

    def row_groups(self, path: Path) -> RowGroups:
        """What the file's footer tells."""
        return read_parquet(path, lambda: self._footers.get((path, file_state(path)), lambda: _footer(path)))

    def read(self, path: Path, names: Sequence[str], groups: Sequence[int]) -> pa.Table:
        """Some columns of some row groups."""

        def read() -> pa.Table:
            with open_parquet(path) as file:
                return read_columns(path, file, names, groups)

        wanted = (*names,), (*groups,)
        return read_parquet(path, lambda: self._tables.get((path, file_state(path), wanted), read))


def _footer(path: Path) -> RowGroups:
    with open_parquet(path) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        return RowGroups(tuple(file.schema_arrow.names), np.cumsum(sizes, dtype=np.int64))


class _Recent(Generic[T]):
    """What was asked for last, as much as has room. size: of one."""

    def __init__(self, room: int, size: Callable[[T], int]) -> None:
        self._room, self._size = room, size
        self._held: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._taken = 0
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        made = make()
        size = self._size(made)
        with self._lock:
            # What is larger would leave no room for others, and another thread may have made the same.
            if size <= self._room // 2 and key not in self._held:
                self._held[key] = made, size
                self._taken += size
                while self._taken > self._room:
                    self._taken -= self._held.popitem(last=False)[1][1]
        return made
