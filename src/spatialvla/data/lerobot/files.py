"""Parquet and disk errors of a dataset, each naming its file."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from spatialvla.errors import CheckpointError, InputError

T = TypeVar("T")


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn the system's 'no space left' into an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(f"The disk of {folder} is full; free some space, then resume.") from error


def read_parquet(path: Path, read: Callable[[], T]) -> T:
    """Call `read`, with errors that name the parquet file. Raises CheckpointError."""
    try:
        return read()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; copy the whole dataset folder.") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise CheckpointError(
            f"{path} is truncated or not a parquet file ({reason}); copy it again."
        ) from error
