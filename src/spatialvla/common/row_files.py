"""Arrays in files, read row by row where they are looked at; each row has a checksum behind the array."""

from __future__ import annotations

import contextlib
import fcntl
import io
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import numpy as np

from spatialvla.common.files import replacing
from spatialvla.errors import CheckpointError


class RowWriter:
    """The rows of a new file, zeros until they are assigned."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.checksums = np.full(len(array), _checksum(array[0]), "<u4")

    def __setitem__(self, rows: slice | np.ndarray, values: np.ndarray) -> None:
        self._array[rows] = values
        self.checksums[rows] = [_checksum(row) for row in self._array[rows]]


@contextmanager
def writing_rows(
    path: Path, shape: tuple[int, ...], dtype: type[np.generic], assigned: int | None = None
) -> Iterator[RowWriter]:
    """Rows to assign inside this block; they are written as the .npy file `path`, whole or not at all.

    shape: of the array, one row at least, as no empty file can be mapped into memory.
    assigned: how many of the rows will be, all unless given; the others take no room.
    Raises CheckpointError where the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".partial-*-{path.name}"):
        _remove_abandoned(left)
    rows = shape[0] if assigned is None else assigned
    needed = rows * int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise CheckpointError(
            f"{path} needs {needed / 1e9:.1f} GB and only {free / 1e9:.1f} GB are free; choose another cache."
        )
    with replacing(path) as partial, partial.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        header = _header(shape, dtype)
        partial.write_bytes(header)
        array = np.memmap(partial, dtype, "r+", len(header), shape)
        writer = RowWriter(array)
        yield writer
        array.flush()
        with partial.open("ab") as file:
            file.write(writer.checksums.tobytes() + _checksum(writer.checksums).to_bytes(4, "little"))


class RowFile:
    """A file of `writing_rows`: its rows are checked when they are read.

    They are read one by one, not mapped into memory: where a file does not fit there, a mapped one has the disk read
    far more than what is looked at.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        """Raises CheckpointError where the file is missing, or is not what `writing_rows` makes of the same."""
        self.path = path
        header = _header(shape, dtype)
        size = len(header) + int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            with path.open("rb") as file:
                found = file.read(len(header))
                file.seek(size)
                table = file.read()
        except OSError as error:
            raise self._damaged(str(error)) from None
        if found != header or len(table) != 4 * (shape[0] + 1):
            raise self._damaged("it holds another array than was written")
        *checksums, of_checksums = np.frombuffer(table, "<u4")
        self._checksums = np.array(checksums, "<u4")
        if _checksum(self._checksums) != of_checksums:
            raise self._damaged("its checksums are")
        self._shape, self._dtype, self._first = shape[1:], np.dtype(dtype), len(header)
        self._file = path.open("rb", buffering=0)
        if hasattr(os, "posix_fadvise"):  # Linux
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def rows(self, numbers: Sequence[int]) -> np.ndarray:
        """(n, …) a copy of some rows. Raises CheckpointError, naming the file, where one is damaged."""
        found = np.empty((len(numbers), *self._shape), self._dtype)
        bytes_of = found.reshape(len(numbers), math.prod(self._shape)).view(np.uint8)
        for row, number in zip(bytes_of, numbers, strict=True):
            wanted = self._checksums[number]
            os.preadv(self._file.fileno(), [row.data], self._first + int(number) * len(row))
            if _checksum(row) != wanted:
                raise self._damaged(f"row {number} is")
        return found

    def _damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged ({why}); delete it, so that it is made again.")


def _remove_abandoned(partial: Path) -> None:
    """Removes a file that a process began that is gone: nobody holds its lock."""
    with contextlib.suppress(OSError), partial.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.unlink()


def _header(shape: tuple[int, ...], dtype: type[np.generic]) -> bytes:
    """What a .npy file of this array begins with."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _checksum(values: np.ndarray) -> int:
    """CRC-32C, which 15 GB a second pass through."""
    return int(google_crc32c.value(np.ascontiguousarray(values).reshape(-1).view(np.uint8)))
