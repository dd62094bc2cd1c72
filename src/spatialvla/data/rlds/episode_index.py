"""The index of a split's episodes in files mapped into memory: where records are, and what is in them where."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import google_crc32c
import numpy as np

from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.common.cache_folder import keep
from spatialvla.common.worker_signals import dropping_the_rest, end_with_parent
from spatialvla.data.rlds.example import parse_example
from spatialvla.data.rlds.records import IndexedRecord, Place, packed
from spatialvla.data.rlds.storage import Storage
from spatialvla.data.rlds.tfrecord import (
    FOOTER,
    HEADER,
    BadRecord,
    RecordBounds,
    ShardIndex,
    cached_index,
    checked_record,
)
from spatialvla.errors import CheckpointError

_FORMAT = 2  # of the files
_ENTRIES, _TABLE, _META = "entries.bin", "episodes.bin", "meta.npz"
_COLUMNS = 5
"""Of the table: an episode's two bounds in its shard, the entry's first byte and length, and its checksum."""

_BLOCK = 2**24
"""Bytes read at a time: few requests to a storage, and not so many that the allocator returns them each time."""


@dataclass(frozen=True)
class Split:
    """The shards of a split. images: keys of the images. cache: folder of indices. digest: of the files as they are."""

    storage: Storage
    shards: tuple[str, ...]
    images: tuple[str, ...]
    cache: Path

    @property
    def digest(self) -> str:
        """Changes with the shards, and with the format of the index."""
        stamps = [self.storage.fingerprint(shard) for shard in self.shards]
        return hashlib.sha256("\n".join([str(_FORMAT), *self.images, *stamps]).encode()).hexdigest()[:24]


class EpisodeIndex:
    """Of E episodes, the entry of each (see `records.packed`), or none where its record cannot be read.

    records: where they are.
    """

    def __init__(self, folder: Path, images: Collection[str]) -> None:
        """Maps the files of `make_index`. Raises ValueError where they are missing or damaged."""
        try:
            meta = read_arrays(folder / _META)
            table = np.memmap(folder / _TABLE, np.int64, "r")
            self._entries = np.memmap(folder / _ENTRIES, np.uint8, "r")
            keys, counts, broken, stamps = (
                meta[name].tolist() for name in ("keys", "counts", "broken", "stamps")
            )
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder} cannot be read ({error})") from None
        if stamps != [_checksum(table), len(self._entries)]:
            raise ValueError(f"{folder} is damaged")
        self._table = table.reshape(-1, _COLUMNS)
        self._keys = {key: row for row, key in enumerate(keys)}
        self.records = RecordBounds(self._table[:, :2], tuple(counts), tuple(broken))
        self._folder, self._images = folder, frozenset(images)

    def __reduce__(self) -> tuple[object, ...]:
        return EpisodeIndex, (self._folder, self._images)

    def record(self, index: int, place: Place) -> IndexedRecord | None:
        """Of an episode, whose record is at `place`. None without an entry, and where it is damaged."""
        first, length, checksum = self._table[index, 2:].tolist()
        entry = self._entries[first : first + length]
        if not length or google_crc32c.value(np.asarray(entry)) != checksum:
            return None
        return IndexedRecord(self._keys, self._images, np.asarray(entry), place)


def open_index(split: Split) -> EpisodeIndex | None:
    """The index of a split's files as they are now; None where none was made, or it is damaged."""
    try:
        return EpisodeIndex(split.cache / split.digest, split.images)
    except ValueError:
        return None


def make_index(split: Split, workers: int = 1) -> EpisodeIndex | None:
    """Reads a split once, checks each record, and keeps the index; goes on where an earlier call broke off.

    workers: processes. None where the cache cannot be written.
    """
    found = open_index(split)
    if found is not None or not _can_write(split.cache):
        return found
    keys = _keys(split)
    tasks = [(split.storage, shard, keys, split.images, split.cache) for shard in split.shards]
    if workers <= 1 or len(tasks) == 1:
        pieces = [_index_shard(*task) for task in tasks]
    else:
        # Not forked: connections to remote storage do not survive it.
        with (
            ProcessPoolExecutor(min(workers, len(tasks)), get_context("spawn"), end_with_parent) as pool,
            dropping_the_rest(pool),
        ):
            pieces = [running.result() for running in [pool.submit(_index_shard, *task) for task in tasks]]
    folder = split.cache / split.digest
    if open_index(split) is None and all(piece.is_file() for piece in pieces):
        _remove_damaged(folder, split.images)
        records = RecordBounds.joined(
            [cached_index(split.storage, name, split.cache) for name in split.shards]
        )
        try:
            keep(folder, lambda partial: _join(partial, pieces, keys, records))
        except (OSError, ValueError):
            # Another process made it meanwhile, and took away what it was made from.
            if open_index(split) is None:
                raise
    for piece in pieces:
        piece.unlink(missing_ok=True)
    return open_index(split)


def _remove_damaged(folder: Path, images: Collection[str]) -> None:
    """Takes away an index that cannot be read; one that another process has just put there stays."""
    aside = folder.with_name(f".partial-{os.getpid()}-damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        folder.rename(aside)
    except OSError:
        return  # there is none
    try:
        EpisodeIndex(aside, images)
        aside.rename(folder)
    except (OSError, ValueError):
        # It is damaged, or a third process has put one there in the meantime.
        shutil.rmtree(aside, ignore_errors=True)


def _can_write(folder: Path) -> bool:
    """Whether reading a whole split for an index in there can be of use."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _keys(split: Split) -> tuple[str, ...]:
    """The features of the first record that can be read: others are alike, or are read whole."""
    for shard in split.shards:
        for record in _records(split.storage, shard, split.cache):
            if record is not None:
                return tuple(parse_example(record[HEADER:-FOOTER]))
    return ()


def _index_shard(
    storage: Storage, shard: str, keys: Sequence[str], images: Sequence[str], cache: Path
) -> Path:
    """The file of a shard's entries; it may be there from an earlier call."""
    stamp = f"{_FORMAT} {keys} {images} {storage.fingerprint(shard)}"
    path = cache / f"{hashlib.sha256(stamp.encode()).hexdigest()[:24]}-entries.npz"
    try:
        read_arrays(path)
        return path
    except ValueError:
        pass
    rows = {key: row for row, key in enumerate(keys)}
    entries = [_entry(record, rows, images) for record in _records(storage, shard, cache)]
    arrays = {
        "lengths": np.array([len(entry) for entry in entries], np.int64),
        "checksums": np.array([google_crc32c.value(entry) for entry in entries], np.int64),
        "entries": np.concatenate([np.zeros(0, np.uint8), *entries]),
    }
    keep(path, lambda partial: write_arrays(partial, arrays))
    return path


def _entry(framed: memoryview | None, keys: Mapping[str, int], images: Sequence[str]) -> np.ndarray:
    if framed is not None:
        try:
            return packed(parse_example(framed[HEADER:-FOOTER]), framed, keys, images)
        except CheckpointError:
            pass
    return np.zeros(0, np.uint8)


def _records(storage: Storage, shard: str, cache: Path) -> Iterator[memoryview | None]:
    """Each record with its frame; None where it is damaged."""
    index = cached_index(storage, shard, cache)
    for start, end in _blocks(index):
        first = int(index.offsets[start])
        data = memoryview(storage.read_range(shard, first, int(index.ends[end - 1])))
        for row in range(start, end):
            begin, stop = int(index.offsets[row]), int(index.ends[row])
            framed = data[begin - first : stop - first]
            try:
                checked_record(storage, shard, begin, stop, framed)
            except BadRecord:
                yield None
            else:
                yield framed


def _blocks(index: ShardIndex) -> Iterator[tuple[int, int]]:
    """Rows [start, end) of neighboring records that are read at once."""
    start = 0
    while start < len(index):
        end = start + 1
        while end < len(index) and index.ends[end] - index.offsets[start] <= _BLOCK:
            end += 1
        yield start, end
        start = end


def _join(folder: Path, pieces: Sequence[Path], keys: Sequence[str], records: RecordBounds) -> None:
    folder.mkdir(exist_ok=True)  # a killed process of the same number may have left one
    lengths, checksums = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with (folder / _ENTRIES).open("wb") as file:
        for piece in pieces:
            arrays = read_arrays(piece)
            lengths.append(arrays["lengths"])
            checksums.append(arrays["checksums"])
            file.write(arrays["entries"].tobytes())
        # No empty file can be mapped.
        file.write(bytes(8))
        size = file.tell()
    sizes = np.concatenate(lengths)
    places = np.stack([np.cumsum(sizes) - sizes, sizes, np.concatenate(checksums)], axis=1)
    table = np.concatenate([records.bounds, places], axis=1)
    table.tofile(folder / _TABLE)
    meta = {
        "keys": np.array(keys, np.str_),
        "counts": np.array(records.counts, np.int64),
        "broken": np.array(records.broken, np.str_),
        "stamps": np.array([_checksum(table), size], np.int64),
    }
    write_arrays(folder / _META, meta)


def _checksum(array: np.ndarray) -> int:
    return int(google_crc32c.value(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))
