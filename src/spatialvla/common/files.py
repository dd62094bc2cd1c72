"""Files that are never half written under their final name, and names that stay inside their folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath


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
