"""JSON and disk errors of a dataset, each naming its file."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from spatialvla.errors import CheckpointError, InputError
from spatialvla.files import replacing

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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=4))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError naming the file when that is impossible."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; give the folder of a finished LeRobot dataset.") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not hold a JSON object; copy it again.")
    return content


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
