"""A checksum inside a parquet or mp4 file, where other programs pass over it: editing such a file drops it."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from spatialvla.common.files import file_state
from spatialvla.errors import CheckpointError

_MARK = b"svlaCRC1"
_SEAL = len(_MARK) + 4
_BLOCK = 16 * 1024**2
_FREE_BOX = (8 + _SEAL).to_bytes(4, "big") + b"free"
_PARQUET_END = 8


def seal_parquet(path: Path) -> None:
    """Puts a checksum of the file between its data and its footer, where nothing refers to."""
    with path.open("r+b") as file:
        start = _footer(file)
        checksum = _crc32c(file, 0, file.seek(0, os.SEEK_END))
        file.seek(start)
        footer = file.read()
        file.seek(start)
        file.write(_MARK + checksum.to_bytes(4, "big") + footer)


def seal_mp4(path: Path) -> None:
    """Adds a checksum of the file behind it, in a box that players skip."""
    with path.open("r+b") as file:
        checksum = _crc32c(file, 0, file.seek(0, os.SEEK_END))
        file.write(_FREE_BOX + _MARK + checksum.to_bytes(4, "big"))


def check_seal(path: Path) -> None:
    """Reads a file to its end, once in a process, and compares its checksum where it has one.

    15 GB a second pass through the checksum, so that the disk sets the time.
    Raises CheckpointError, naming the file, where the contents are others; a missing file passes.
    """
    try:
        state = file_state(path)
    except OSError:
        return
    _check(path, *state)


@lru_cache(maxsize=100_000)
def _check(path: Path, *state: int) -> None:
    """state: what changes with the file."""
    try:
        with path.open("rb") as file:
            whole = is_whole(file)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); copy it again.") from None
    if not whole:
        raise CheckpointError(f"{path} has other contents than were written; copy it again.")


def is_whole(file: BinaryIO) -> bool:
    """Whether a file has the contents that its checksum is of, or no checksum."""
    size = file.seek(0, os.SEEK_END)
    end = size - _SEAL
    if end < 0:
        return True
    file.seek(max(end - len(_FREE_BOX), 0))
    tail = file.read()
    if tail[-_SEAL:-4] == _MARK:
        return _crc32c(file, 0, size - len(_FREE_BOX) - _SEAL) == int.from_bytes(tail[-4:], "big")
    start = _footer(file)
    file.seek(max(start - _SEAL, 0))
    seal = file.read(_SEAL)
    if start < _SEAL or seal[:-4] != _MARK:
        return True
    checksum = _crc32c(file, 0, start - _SEAL)
    return _crc32c(file, start, size, checksum) == int.from_bytes(seal[-4:], "big")


def _footer(file: BinaryIO) -> int:
    """Where a parquet file's footer begins, as its last bytes say; of other files this is anywhere, or below 0."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _PARQUET_END, 0))
    return size - _PARQUET_END - int.from_bytes(file.read(4), "little")


def _crc32c(file: BinaryIO, start: int, end: int, checksum: int = 0) -> int:
    file.seek(start)
    while start < end and (block := file.read(min(_BLOCK, end - start))):
        checksum = int(google_crc32c.extend(checksum, block))
        start += len(block)
    return checksum
