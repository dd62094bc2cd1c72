"""Bytes of files anywhere: a local disk through the operating system, everything else through fsspec."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from spatialvla.common.files import OpenFiles
from spatialvla.errors import CheckpointError

_GAP = 2**15
"""Bytes between two ranges that are rather read than asked around: a request costs more than they do."""

_MOST = 128
"""Files that stay open from one read to the next, of all datasets of a process."""

_files = OpenFiles(_MOST, lambda path: os.open(path, os.O_RDONLY), os.close, forks_share=True)


class Storage:
    """One folder, local or at any fsspec URL. Can be sent to another process.

    Raises CheckpointError, naming the file, where one cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root).rstrip("/")
        self._connect()

    def _connect(self) -> None:
        self._fs: Any
        self._fs, self._folder = fsspec.core.url_to_fs(self.root)
        self._local = isinstance(self._fs, fsspec.implementations.local.LocalFileSystem)

    def __getstate__(self) -> str:
        return self.root

    def __setstate__(self, root: str) -> None:
        self.root = root
        self._connect()

    def names(self) -> list[str]:
        """The files of the folder, sorted."""
        try:
            found = self._fs.ls(self._folder, detail=True)
        except OSError as error:
            raise CheckpointError(f"{self.root} cannot be listed ({error}); check the path.") from error
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] != "directory")

    def read(self, name: str) -> bytes:
        """A whole file."""
        try:
            return bytes(self._fs.cat_file(f"{self._folder}/{name}"))
        except OSError as error:
            raise CheckpointError(f"{self.root}/{name} cannot be read ({error}).") from error

    def read_range(self, name: str, start: int, end: int) -> bytes | memoryview:
        """The bytes [start, end), fewer where the file ends before."""
        try:
            if self._local:
                with _files.reading(Path(self._folder, name)) as descriptor:
                    return _pread(descriptor, end - start, start)
            return bytes(self._fs.cat_file(f"{self._folder}/{name}", start=start, end=end))
        except OSError as error:
            raise CheckpointError(f"{self.root}/{name} cannot be read ({error}).") from error

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes [start, end) of each range, fewer where the file ends before; neighboring ones are read at once."""
        spans = _merged(ranges)
        try:
            if self._local or len(spans) <= 1:
                read = [memoryview(self.read_range(name, start, end)) for start, end in spans]
            else:  # at the same time, where the storage can
                paths = [f"{self._folder}/{name}"] * len(spans)
                starts, ends = (list(bounds) for bounds in zip(*spans, strict=True))
                answers = self._fs.cat_ranges(paths, starts, ends, on_error="raise")
                read = [memoryview(bytes(answer)) for answer in answers]
        except OSError as error:
            raise CheckpointError(f"{self.root}/{name} cannot be read ({error}).") from error
        firsts = np.array([start for start, _ in spans])
        found = []
        for start, end in ranges:
            if start == end:
                found.append(memoryview(b""))
                continue
            span = int(np.searchsorted(firsts, start, side="right")) - 1
            found.append(read[span][start - spans[span][0] : end - spans[span][0]])
        return found

    def fingerprint(self, name: str) -> str:
        """Changes when the file does: its size, and the time or tag its storage knows."""
        if self._local:  # of the file itself, not of a link to it
            status = os.stat(f"{self._folder}/{name}")
            return f"{self.root}/{name} {status.st_size} {status.st_mtime}"
        info = self._fs.info(f"{self._folder}/{name}")
        stamps = (info.get(key) for key in ("mtime", "ETag", "etag", "md5Hash", "LastModified", "updated"))
        return f"{self.root}/{name} {info['size']} {next((stamp for stamp in stamps if stamp), '')}"

    def size(self, name: str) -> int:
        """Bytes of a file."""
        if self._local:
            return os.stat(f"{self._folder}/{name}").st_size
        return int(self._fs.size(f"{self._folder}/{name}"))


def _merged(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges that hold all of these, ascending and apart."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted(bounds for bounds in ranges if bounds[0] < bounds[1]):
        if spans and start - spans[-1][1] <= _GAP:
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
    return spans


def _pread(descriptor: int, length: int, start: int) -> memoryview:
    # Sizes that are powers of two let the allocator give the next record the memory of the last one; of odd
    # sizes each record's pages would be new, and having them zeroed takes longer than reading.
    buffer = np.empty(1 << max(length - 1, 0).bit_length(), np.uint8).data[:length]
    return buffer[: os.preadv(descriptor, [buffer], start)]
