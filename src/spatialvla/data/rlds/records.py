"""A record's features, read whole or, where an index tells where they lie, only as far as they are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np

from spatialvla.data.rlds.example import FeatureList
from spatialvla.data.rlds.storage import Storage
from spatialvla.data.rlds.tfrecord import HEADER, BadRecord, read_record
from spatialvla.errors import CheckpointError

ABSENT = -1
"""The kind of a feature that a record lacks."""

_KEPT_PER_STEP, _KEPT = 512, 4096
"""Bytes that a feature may have to be kept in the index itself: so many a step, and so many more."""

_COLUMNS = 4  # of an entry's table
_TAG = 1  # byte before the length of an item


class WholeRecord(dict[str, FeatureList]):
    """All features of a record by name."""

    def count(self, key: str) -> int:
        """Items of a list of bytes."""
        return len(self[key].items())

    def some(self, key: str, numbers: Sequence[int] | None) -> list[memoryview]:
        """Items of a list of bytes, all unless numbers are given."""
        items = self[key].items()
        return items if numbers is None else [items[number] for number in numbers]


@dataclass(frozen=True)
class Place:
    """Where a record is, in bytes [start, end) of a shard."""

    storage: Storage
    shard: str
    start: int
    end: int

    @property
    def origin(self) -> str:
        """For messages."""
        return f"{self.storage.root}/{self.shard}, offset {self.start}"


class IndexedRecord(Mapping[str, FeatureList]):
    """A record of which an entry of the index keeps the numbers and texts, and where everything else lies.

    Raises BadRecord, naming shard and offset, for an image that is not what was indexed.
    """

    def __init__(
        self, keys: Mapping[str, int], images: Collection[str], entry: np.ndarray, place: Place
    ) -> None:
        """keys: rows of the entry's table by name. images: names of lists of files. entry: `packed`'s."""
        self._rows, self._images, self._place = keys, images, place
        head = len(keys) * _COLUMNS * 8
        self._table: list[list[int]] = entry[:head].view("<i8").reshape(-1, _COLUMNS).tolist()
        self._kept = entry[head:]

    def __len__(self) -> int:
        return sum(row[0] != ABSENT for row in self._table)

    def __iter__(self) -> Iterator[str]:
        return (key for key, row in self._rows.items() if self._table[row][0] != ABSENT)

    def __contains__(self, key: object) -> bool:
        return key in self._rows and self._table[self._rows[str(key)]][0] != ABSENT

    def __getitem__(self, key: str) -> FeatureList:
        """A feature; for what the entry does not keep, the record is read and checked."""
        if key not in self:
            raise KeyError(key)
        kind, start, length, kept = self._table[self._rows[key]]
        if kept and key not in self._images:
            return FeatureList(kind, self._part(key).data[:length])
        place = self._place  # of which the checksum is that of the whole record
        whole = read_record(place.storage, place.shard, place.start, place.end)
        return FeatureList(kind, whole[start - HEADER : start - HEADER + length] if length else whole[:0])

    def count(self, key: str) -> int:
        """Items of a list of bytes."""
        if self._is_indexed(key):
            return len(self._part(key)) // 8
        return len(self[key].items())

    def some(self, key: str, numbers: Sequence[int] | None) -> list[memoryview]:
        """Items of a list of bytes, all unless numbers are given."""
        if not self._is_indexed(key):
            items = self[key].items()
            return items if numbers is None else [items[number] for number in numbers]
        lengths, checksums = self._part(key).view("<u4").reshape(2, -1)
        ends = self._table[self._rows[key]][1] + np.cumsum(lengths + _heads(lengths))
        wanted = range(len(lengths)) if numbers is None else numbers
        spans = [(int(ends[number] - lengths[number]), int(lengths[number])) for number in wanted]
        found = self._read(spans)
        for number, (start, _), item in zip(wanted, spans, found, strict=True):
            if google_crc32c.value(np.frombuffer(item, np.uint8)) != checksums[number]:
                raise BadRecord(
                    f"{self._place.origin}: '{key}' of step {number}, at offset {start}, is not what was indexed: "
                    "it is damaged, or was changed; copy the file again."
                )
        return found

    def _is_indexed(self, key: str) -> bool:
        return key in self._images and key in self and self._table[self._rows[key]][3] > 0

    def _part(self, key: str) -> np.ndarray:
        """The bytes that the entry keeps of a feature."""
        row = self._rows[key]
        first = sum(kept for *_, kept in self._table[:row])
        return self._kept[first : first + self._table[row][3]]

    def _read(self, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes at offsets from the record's start, each so many."""
        first = self._place.start
        ranges = [(first + start, first + start + length) for start, length in spans]
        found = self._place.storage.read_ranges(self._place.shard, ranges)
        for (start, length), data in zip(spans, found, strict=True):
            if len(data) < length:
                raise BadRecord(f"{self._place.origin}: the file ends inside it, at {start}; copy it again.")
        return found


Record = WholeRecord | IndexedRecord


def packed(
    record: Mapping[str, FeatureList], framed: memoryview, keys: Mapping[str, int], images: Collection[str]
) -> np.ndarray:
    """(N,) uint8 the entry of a record: a table with a row for each key, and behind it what is kept of each.

    A row is kind, offset from the record's start, length, and how many bytes are kept: all of a small feature, and of
    images the lengths and the checksums of their files. framed: the record, with its header, which `record` is a view
    of. Empty where the record has other features than `keys`, or is too large to be told so: it is read whole.
    """
    if record.keys() - keys.keys():
        return np.zeros(0, np.uint8)
    table = np.full((len(keys), _COLUMNS), ABSENT, np.int64)
    table[:, 3] = 0
    parts: dict[int, np.ndarray] = {}
    files = {key: _files(record[key]) for key in images if key in record}
    steps = max((found.shape[1] for found in files.values() if found is not None), default=1)
    for key, feature in record.items():
        found = files.get(key)
        length = len(feature.data)
        if found is not None:
            parts[keys[key]] = found.reshape(-1).view(np.uint8)
        elif key not in images and length <= _KEPT_PER_STEP * steps + _KEPT:
            parts[keys[key]] = np.frombuffer(bytes(feature.data) + bytes(-length % 8), np.uint8)
        kept = len(parts.get(keys[key], ()))
        table[keys[key]] = feature.kind, _offset(feature.data, framed), length, kept
    return np.concatenate([table.reshape(-1).view(np.uint8), *(parts[row] for row in sorted(parts))])


def _files(feature: FeatureList) -> np.ndarray | None:
    """(2, T) uint32 lengths and checksums of a list of files; None where it is not files one after another."""
    try:
        items = feature.items()
    except CheckpointError:
        return None
    lengths = np.array([len(item) for item in items], np.int64)
    if not len(items) or lengths.max() >= 2**32 or (lengths + _heads(lengths)).sum() != len(feature.data):
        return None
    checksums = [google_crc32c.value(np.frombuffer(item, np.uint8)) for item in items]
    return np.array([lengths, checksums], "<u4")


def _heads(lengths: np.ndarray) -> np.ndarray:
    """Bytes in front of each item: its tag, and its length in groups of 7 bits."""
    groups = 1 + sum((lengths >= 1 << 7 * more).astype(np.int64) for more in range(1, 5))
    return np.asarray(groups + _TAG)


def _offset(part: memoryview, whole: memoryview) -> int:
    """Where a part of some memory lies in it."""
    if not len(part):
        return 0
    first, here = (np.frombuffer(memory, np.uint8).ctypes.data for memory in (whole, part))
    return int(here - first)
