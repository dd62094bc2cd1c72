"""Numbers in a client's message: read under the client's own keys, and never more than numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spatialvla.errors import InputError

_NUMBER = (int, float, np.integer, np.floating)


def entries(message: Mapping[str, Any], key: str, indices: tuple[int, ...]) -> np.ndarray | None:
    """Some of a key's numbers as float64, None where the message lacks it. Raises InputError."""
    row = array(message, key)
    if row is None:
        return None
    if row.ndim != 1 or len(row) <= max(indices):
        raise InputError(f"{key!r} has shape {row.shape}, but its entries {indices} are needed.")
    found = row[list(indices)].astype(np.float64)
    if not np.isfinite(found).all():
        raise InputError(f"{key!r} contains NaN or infinity.")
    return found


def numbers(message: Mapping[str, Any], key: str) -> np.ndarray | None:
    """(n,) float64: a key's number or numbers, None where the message lacks it. Raises InputError."""
    value = message.get(key)
    if isinstance(value, _NUMBER) and not isinstance(value, bool):
        value = [value]
    row = array({key: value}, key)
    if row is None:
        return None
    if row.ndim != 1:
        raise InputError(f"{key!r} must be a row of numbers, got shape {row.shape}.")
    if not np.isfinite(row).all():
        raise InputError(f"{key!r} contains NaN or infinity.")
    return row.astype(np.float64)


def array(message: Mapping[str, Any], key: str | None) -> np.ndarray | None:
    """A key's array of numbers of any shape, None where the message lacks it. Raises InputError."""
    value = message.get(key) if key else None
    if value is None:
        return None
    if not isinstance(value, np.ndarray | list | tuple):
        raise InputError(f"{key!r} must be an array of numbers, got {type(value).__name__}.")
    # NumPy makes each string in a list as long as the longest, so it never sees one.
    if not isinstance(value, np.ndarray) and not _only_numbers(value):
        raise InputError(f"{key!r} must be an array of numbers, or lists of numbers of one length.")
    found = np.asarray(value)
    if found.dtype.kind not in "fiu" or found.size == 0:
        raise InputError(f"{key!r} must be an array of numbers, got {found.dtype} of shape {found.shape}.")
    return found


def shown(message: Mapping[str, Any]) -> str:
    """The first of a message's keys, however many and long they are."""
    return ", ".join(key[:40] for key in sorted(message)[:12]) or "nothing"


def _only_numbers(values: Sequence[Any], deepest: int = 4) -> bool:
    """Whether values are numbers, or lists of one length of such."""
    lists = [value for value in values if isinstance(value, list | tuple)]
    if not lists:
        return all(isinstance(value, _NUMBER) and not isinstance(value, bool) for value in values)
    alike = len(lists) == len(values) and len({len(value) for value in lists}) == 1
    return deepest > 1 and alike and all(_only_numbers(value, deepest - 1) for value in lists)
