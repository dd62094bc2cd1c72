"""TFRecord framing: length, checksum of the length, data, checksum of the data, again and again."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.common.cache_folder import keep
from spatialvla.data.rlds.storage import Storage
from spatialvla.errors import CheckpointError

HEADER, FOOTER = 12, 4  # bytes around the data
_FRAME = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


class BadRecord(CheckpointError):
    """A record that cannot be trusted; the message names its shard and offset."""


def masked_crc32c(data: bytes | memoryview) -> int:
    """CRC-32C, rotated and shifted, because checksums of checksums are weak."""
    # The library wants bytes or an array: as an array, a part of a record is not copied.
    crc: int = google_crc32c.value(data if isinstance(data, bytes) else np.frombuffer(data, np.uint8))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass(frozen=True)
class ShardIndex:
    """Where the records of a shard are.

    offsets: (records,) int64 of each record's first byte; ends: (records,) one past its last.
    broken: what ended the shard before its end, or "". Nothing behind a broken length can be found.
    """

    offsets: np.ndarray
    ends: np.ndarray
    broken: str = ""

    def __len__(self) -> int:
        return len(self.offsets)


@dataclass(frozen=True)
class RecordBounds:
    """Where the E records of several shards are.

    bounds: (E, 2) int64 each record's first byte in its shard, and one past its last. counts: records of each shard.
    broken: of each shard, see `ShardIndex`.
    """

    bounds: np.ndarray
    counts: Sequence[int]
    broken: Sequence[str]

    @classmethod
    def joined(cls, indices: Sequence[ShardIndex]) -> RecordBounds:
        """Of one shard behind another."""
        parts = [np.stack([index.offsets, index.ends], axis=1) for index in indices]
        return cls(
            np.concatenate([np.zeros((0, 2), np.int64), *parts]),
            tuple(map(len, indices)),
            tuple(index.broken for index in indices),
        )


def index_shard(storage: Storage, name: str) -> ShardIndex:
    """Follow a shard's lengths from record to record, checking each; the data is not read."""
    size = storage.size(name)
    offsets: list[int] = []
    position, broken = 0, ""
    while position < size:
        header = storage.read_range(name, position, position + HEADER)
        if len(header) < HEADER:
            broken = f"ends inside the length at offset {position}"
            break
        length, checksum = _FRAME.unpack(header)
        if masked_crc32c(header[:8]) != checksum:
            broken = f"has a damaged length at offset {position}"
            break
        if position + HEADER + length + FOOTER > size:
            broken = f"ends inside the record at offset {position}"
            break
        offsets.append(position)
        position += HEADER + length + FOOTER
    starts = np.array(offsets, dtype=np.int64)
    return ShardIndex(starts, np.append(starts[1:], position)[: len(starts)], broken)


def read_record(storage: Storage, name: str, start: int, end: int) -> memoryview:
    """The data of the record in bytes [start, end). Raises BadRecord where a checksum does not hold."""
    return checked_record(storage, name, start, end, memoryview(storage.read_range(name, start, end)))


def checked_record(storage: Storage, name: str, start: int, end: int, framed: memoryview) -> memoryview:
    """The data of a record that was read from there. Raises BadRecord where a checksum does not hold."""
    if len(framed) < end - start:
        raise BadRecord(
            f"{storage.root}/{name}: the record at offset {start} is cut off; copy the file again."
        )
    data = framed[HEADER:-FOOTER]
    if masked_crc32c(data) != _CHECKSUM.unpack(framed[-FOOTER:])[0]:
        raise BadRecord(
            f"{storage.root}/{name}: the record at offset {start} is damaged; copy the file again."
        )
    return data


def cached_index(storage: Storage, name: str, folder: Path) -> ShardIndex:
    """`index_shard`, kept in `folder` under the shard's fingerprint, so that it is done once."""
    digest = hashlib.sha256(storage.fingerprint(name).encode()).hexdigest()[:24]
    path = folder / f"{digest}.npz"
    try:
        stored = read_arrays(path)
        return ShardIndex(stored["offsets"], stored["ends"], str(stored["broken"]))
    except (ValueError, KeyError):
        pass
    index = index_shard(storage, name)
    arrays = {"offsets": index.offsets, "ends": index.ends, "broken": np.asarray(index.broken)}
    keep(path, lambda partial: write_arrays(partial, arrays))
    return index
