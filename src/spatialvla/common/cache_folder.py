"""The user's cache folder, where things that can be made again are kept."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from spatialvla.common.files import replacing


def cache_folder(name: str = "") -> Path:
    """`name` in $XDG_CACHE_HOME/spatialvla, or in ~/.cache/spatialvla. It may not exist yet.

    A user without a home, as containers have them, gets a folder among the temporary files.
    """
    given = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if given.startswith("~"):
        given = f"{tempfile.gettempdir()}/spatialvla-{os.getuid()}"
    return Path(given) / "spatialvla" / name


def keep(path: Path, write: Callable[[Path], None]) -> None:
    """Has `write` make the cached file `path`, whole or not at all; where nothing can be written it is left out."""
    try:
        with replacing(path) as partial:
            write(partial)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
            raise
