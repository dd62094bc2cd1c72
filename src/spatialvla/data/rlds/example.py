"""The wire format of tf.train.Example, decoded without copying it.

Example { Features { map<string, Feature> } }, and a Feature is one list: of bytes (1), floats (2) or int64
(3). Finding the features is all that happens at first; a list is decoded when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatialvla.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ITEM = 1 << 3 | _BYTES  # the tag of an entry
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3


@dataclass(frozen=True)
class FeatureList:
    """One feature's list, still encoded. kind: 1 bytes, 2 floats, 3 int64; 0 where nothing was stored."""

    kind: int
    data: memoryview

    def items(self) -> list[memoryview]:
        """The entries of a list of bytes.

        Raises CheckpointError for another kind or broken data, as all here do.
        """
        self._expect(_BYTES_LIST)
        try:
            return _items(self.data)
        except (IndexError, ValueError) as error:
            raise CheckpointError(f"a feature's list is broken ({error})") from error

    def floats(self) -> np.ndarray:
        """(N,) float32."""
        parts = [value for _, _, value in self._values(_FLOAT_LIST)]
        if any(len(part) % 4 for part in parts):
            raise CheckpointError("a list of floats is cut off")
        return _joined([np.frombuffer(part, "<f4") for part in parts], np.float32)

    def integers(self) -> np.ndarray:
        """(N,) int64."""
        return _joined([_varints(value) for _, _, value in self._values(_INT64_LIST)], np.int64)

    def _values(self, kind: int) -> list[tuple[int, int, memoryview]]:
        self._expect(kind)
        try:
            return _fields(self.data)
        except (IndexError, ValueError) as error:
            raise CheckpointError(f"a feature's list is broken ({error})") from error

    def _expect(self, kind: int) -> None:
        if self.kind not in (0, kind):
            names = ("nothing", "bytes", "floats", "integers")
            raise CheckpointError(f"a feature holds {names[self.kind]} where {names[kind]} were announced")


def parse_example(data: bytes | memoryview) -> Mapping[str, FeatureList]:
    """The features of a serialized Example by name. Raises CheckpointError if it is none."""
    features: dict[str, FeatureList] = {}
    try:
        for number, _, block in _fields(memoryview(data)):
            if number != 1:
                continue
            for entry_number, _, entry in _fields(block):
                if entry_number == 1:
                    key, value = _entry(entry)
                    features[key] = value
    except (IndexError, ValueError) as error:
        raise CheckpointError(f"is no tf.train.Example ({error})") from error
    return features


def _entry(entry: memoryview) -> tuple[str, FeatureList]:
    key, value = "", FeatureList(0, memoryview(b""))
    for number, _, field in _fields(entry):
        if number == 1:
            key = bytes(field).decode()
        elif number == 2:
            for kind, _, block in _fields(field):
                value = FeatureList(kind, block)
    return key, value


def _fields(data: memoryview) -> list[tuple[int, int, memoryview]]:
    """(number, wire type, its bytes) of each field of a message; a varint's bytes are the varint itself."""
    found = []
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == _BYTES:
            length = data[position]
            position += 1
            if length >= 0x80:
                length, position = _varint(data, position - 1)
        elif wire == _VARINT:
            length = _varint(data, position)[1] - position
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > end:
            raise ValueError("a field reaches past the end")
        found.append((tag >> 3, wire, data[position : position + length]))
        position += length
    return found


def _items(data: memoryview) -> list[memoryview]:
    """The entries of field 1, as `_fields` would find them: most of what a dataset holds are such lists."""
    found = []
    position, end = 0, len(data)
    while position < end:
        if data[position] != _ITEM:
            return [item for number, wire, item in _fields(data) if number == 1 and wire == _BYTES]
        length = data[position + 1]
        position += 2
        if length >= 0x80:  # most are files of 128 to 16,383 bytes
            more = data[position]
            if more < 0x80:
                length += (more - 1) << 7
                position += 1
            else:
                length, position = _varint(data, position - 1)
        following = position + length
        if following > end:
            raise ValueError("a field reaches past the end")
        found.append(data[position:following])
        position = following
    return found


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The unsigned number at `position`, seven bits a byte, and where it ends."""
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value, shift = byte & 0x7F, 7
    while True:
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than 10 bytes")


def _varints(data: memoryview) -> np.ndarray:
    """(N,) int64 of packed varints, all at once: negative numbers take 10 bytes in two's complement."""
    raw = np.frombuffer(data, np.uint8)
    last = raw < 0x80
    if last.all():
        return raw.astype(np.int64)
    ends = np.flatnonzero(last)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise CheckpointError("holds a number that is cut off")
    starts = np.append(0, ends[:-1] + 1)
    position = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    if position.max() > 9:
        raise CheckpointError("holds a varint of more than 10 bytes")
    shifted = (raw & 0x7F).astype(np.uint64) << (7 * position).astype(np.uint64)
    return np.add.reduceat(shifted, starts).astype(np.int64)


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
