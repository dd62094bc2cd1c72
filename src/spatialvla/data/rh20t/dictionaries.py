"""The dictionaries that RH20T keeps as pickles in .npy files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from spatialvla.common.pickles import BadPickle, Rules, read_pickle
from spatialvla.errors import CheckpointError

# Eight cameras that take ten pictures a second reach it in forty minutes; scenes last a few.
_RULES = Rules(opcodes=10_000_000, keys=(str, int), arrays="biufUSO")


def read_dictionary(path: Path) -> dict[str | int, Any]:
    """The dictionary in a .npy file, of plain containers, numbers, text and arrays.

    Raises CheckpointError, naming the file, where it is missing, broken, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            _check_header(file)
            content = read_pickle(file.read(), _RULES)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; copy the whole folder.") from None
    except Exception as error:  # whatever a broken header leads to
        raise CheckpointError(f"{path} cannot be read ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary; copy it again.")
    return content


def _check_header(file: BinaryIO) -> None:
    """Raises ValueError unless the header announces one object, which is how NumPy stores a dictionary."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise BadPickle(f"it has version {version} of the format")
    if dtype != np.dtype(object) or shape != ():
        raise BadPickle(f"it holds an array of {dtype}, no dictionary")
