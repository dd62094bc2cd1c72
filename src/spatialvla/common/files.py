"""Files: never half written under their final name, kept open for the next read, named inside their folder."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


def file_state(path: Path) -> tuple[int, int, int]:
    """What changes when a file does: its number on the disk, its bytes and its time. Raises OSError without it."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def replacing(path: Path, in_folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there once the block has succeeded.

    in_folder: it lies in a temporary folder, for writers that have temporary files of their own beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    written = partial / path.name if in_folder else partial
    if in_folder:
        partial.mkdir(exist_ok=True)
    try:
        yield written
        os.replace(written, path)
    finally:
        _remove(partial)


def sweep(folder: Path, names: str = "*", below: bool = False) -> None:
    """Removes what killed processes have left of `replacing` files with such names, where nobody writes them now.

    below: in the folders below, too.
    """
    pattern = f".partial-*-{names}"
    for left in [*(folder.rglob(pattern) if below else folder.glob(pattern))]:
        _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def inside(folder: Path, name: str) -> Path:
    """The path in `folder` that a file's text names: anything but a way out of the folder.

    Links are followed wherever they lead, since the Hub's cache is made of them: they are part of the folder as
    it was put there, which a name in a text is not. Raises ValueError for absolute paths, `..` and the like.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if (
        not posix.parts
        or posix.is_absolute()
        or windows.anchor
        or ".." in (*posix.parts, *windows.parts)
        or any(ord(character) < 32 for character in name)
    ):
        raise ValueError(f"{name!r} is no name of a file in its folder")
    return folder / name


class OpenFiles(Generic[T]):
    """Opens files, keeps them open, and closes the one that was not read for longest where there are more than `most`.

    forks_share: whether a forked process can go on with what its parent has open. Else it opens its own and leaves
    those alone, as a place in a file that is moved there moves in the parent, too.
    """

    def __init__(
        self, most: int, open_file: Callable[[Path], T], close: Callable[[T], object], *, forks_share: bool
    ) -> None:
        self.most = most
        self._open, self._close, self._forks_share = open_file, close, forks_share
        self._idle: OrderedDict[object, T] = OrderedDict()  # what nobody reads now, read last at the end
        self._lock = Lock()
        self._of_the_parent: list[object] = []
        os.register_at_fork(after_in_child=self._forked)

    @contextmanager
    def reading(self, path: Path) -> Iterator[T]:
        """The file as it is now, for one reader at a time; it is closed where the reader fails.

        Raises OSError where there is none, and what opening it raises.
        """
        key = path, file_state(path)
        with self._lock:
            found = self._idle.pop(key, None)
        file = self._open(path) if found is None else found
        try:
            yield file
        except BaseException:
            self._close(file)
            raise
        with self._lock:
            surplus = [self._idle.pop(key)] if key in self._idle else []
            self._idle[key] = file
            surplus += [self._idle.popitem(last=False)[1] for _ in range(len(self._idle) - self.most)]
        for each in surplus:
            self._close(each)

    def _forked(self) -> None:
        self._lock = Lock()  # the old one may be taken by a thread that the new process lacks
        if not self._forks_share:
            self._of_the_parent.append(dict(self._idle))
            self._idle.clear()
