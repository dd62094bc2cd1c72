"""Parquet files of a dataset, read with errors that name the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from spatialvla.errors import CheckpointError

T = TypeVar("T")


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
