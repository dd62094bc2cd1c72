"""The user's cache folder, where things that can be made again are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(name: str = "") -> Path:
    """`name` in $XDG_CACHE_HOME/spatialvla, or in ~/.cache/spatialvla. It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spatialvla" / name
