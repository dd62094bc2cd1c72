"""The three tokens of a step, each of its own kind, and the one check that they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from spatialvla.actions.coordinates import BLOCKS
from spatialvla.errors import InputError

KINDS = (*BLOCKS, "gripper")
"""What the three tokens of a step stand for, in order."""

FREE = -1
"""Stands in a slot of a chunk that nothing is said about: not committed, or no guess."""


def checked_tokens(
    name: str,
    tokens: np.ndarray,
    ranges: Sequence[tuple[int, int]],
    *,
    free: int | None = None,
) -> Int[np.ndarray, "*steps 3"]:
    """Tokens (..., 3) as int64, each of its slot's kind.

    name: of the argument, for the error. ranges: the half-open range of each kind: `ActionGrid.ranges` for
    spatial tokens, `SpatialVLAConfig.id_ranges` for vocabulary ids. free: a number that may stand in any
    slot.
    Raises InputError on other shapes, on what is not whole, and on a number that is not of its slot's kind.
    """
    numbers = np.asarray(tokens)
    if numbers.ndim < 1 or numbers.shape[-1] != len(KINDS) or not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(f"{name} must be whole numbers (..., 3), got {numbers.dtype} {numbers.shape}.")
    for slot, (kind, (start, stop)) in enumerate(zip(KINDS, ranges, strict=True)):
        found = numbers[..., slot]
        wrong = np.unique(found[((found < start) | (found >= stop)) & (found != free)])
        if wrong.size:
            listed = ", ".join(map(str, wrong[:5])) + (", …" if wrong.size > 5 else "")
            raise InputError(
                f"{name} has {listed} where a {kind} token belongs; these are {start} to {stop - 1}."
            )
    return numbers.astype(np.int64)
