"""Arrays in .npz files, read as they were written or not at all: the archive's checksums cover every byte."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from struct import error as StructError
from tokenize import TokenError
from zipfile import BadZipFile, ZipFile

import numpy as np

_SUFFIX = ".npy"
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    BadZipFile,
    StructError,
    OverflowError,
    zlib.error,
    TokenError,
    SyntaxError,
)
"""What the libraries raise for archives that are none, or damaged; RuntimeError where one says it is encrypted."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], compress: bool = False) -> None:
    """Writes a .npz file as NumPy does."""
    with path.open("wb") as file:
        (np.savez_compressed if compress else np.savez)(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a .npz file by name.

    Each is read to its end before it is looked at, as its checksum is compared only there.
    Raises ValueError where the file is missing, damaged or something else.
    """
    try:
        with ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        return {
            name.removesuffix(_SUFFIX): np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            for name, content in contents.items()
        }
    except _BROKEN as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
