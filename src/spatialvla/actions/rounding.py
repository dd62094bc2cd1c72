"""How far an action grid's cells are from the actions that fall into them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spatialvla.actions.bins import BLOCKS
from spatialvla.actions.grids import ActionGrid


@dataclass(frozen=True)
class Rounding:
    """Root mean square distances between actions and what their tokens decode to, in normalized units.

    error: of all actions. offset: of the cells' middles from the mean of the actions in them. The rest of the
    error has no direction and cancels out from step to step; the offset adds up.
    """

    error: float
    offset: float


def rounding(grid: ActionGrid, actions: Float[np.ndarray, "n 7"]) -> dict[str, Rounding]:
    """Of the translation's and of the rotation's tokens. actions: n normalized ones, n > 0."""
    tokens = grid.encode(actions)
    # What lies outside the range is clipped by any grid.
    errors = grid.decode(tokens) - np.clip(actions, -1, 1)
    found = {}
    for slot, block in enumerate(BLOCKS):
        error = errors[:, 3 * slot : 3 * slot + 3]
        _, cell, count = np.unique(tokens[:, slot], return_inverse=True, return_counts=True)
        offset = np.stack([np.bincount(cell, column) / count for column in error.T], axis=1)[cell]
        found[block] = Rounding(_root_mean_square(error), _root_mean_square(offset))
    return found


def _root_mean_square(vectors: Float[np.ndarray, "n 3"]) -> float:
    return float(np.sqrt(np.square(vectors).sum(axis=1).mean()))
