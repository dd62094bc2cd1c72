"""Files that are never half written under their final name, and names that stay inside their folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there once the block has succeeded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
