"""Where the cells of an action grid lie, so that it can be said which are neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEVER = 2**40
"""A period no distance comes near to, and between tokens that are no neighbours of any degree a distance."""


@dataclass(frozen=True)
class Cells:
    """The cells of all tokens of a grid, in the order of their numbers.

    bins: (tokens, 3) int64, the bin along each of the three dimensions that share the token. periods: (tokens, 3)
    int64, after how many bins each dimension comes back to where it began; NEVER where it does not.
    Two tokens of one kind are min(|b - b'|, period - |b - b'|) bins apart along each dimension.
    """

    bins: np.ndarray
    periods: np.ndarray
