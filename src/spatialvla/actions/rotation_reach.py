"""Outermost rotation cells that decode to the mean of what data have there.

Statistics end at the 1st and 99th percentile. A robot that turns fast, but seldom, then has its fastest rotations
clipped, and decoded to the middle of an outermost cell within them: 0.16 for 0.3, say. It arrives with its hand not
turned yet, where no demonstration has ever been.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from spatialvla.actions.bins import BLOCKS
from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.errors import InputError

Turn = Literal["roll", "pitch", "yaw"]


def with_rotation_reach(
    grid: ActionGrid,
    statistics: Mapping[str, ActionStatistics],
    rotations: Float[np.ndarray, "n 3"],
    turns: Collection[Turn],
) -> tuple[ActionGrid, dict[str, ActionStatistics]]:
    """A grid and statistics by which each action has the token that it had, and fast rotations are decoded faster.

    statistics: of all datasets that the grid serves. rotations: of data, in their units. turns: the dimensions to fit.
    A dimension stays as it is where nothing lies in its outermost cells, or where they reach far enough.
    Raises InputError where datasets scale rotations differently, or not as far to either side.
    """
    reach = next(iter(statistics.values())).q99[3:6].copy()
    for one in statistics.values():
        if not np.array_equal(one.q99[3:6], reach) or not np.array_equal(one.q01[3:6], -reach):
            raise InputError(
                "Rotations can be fitted where all datasets scale them alike and as far to either side; train with "
                "statistics of `spatialvla data statistics --symmetric-rotations`."
            )
    edges = {}
    for number, name in enumerate(BLOCKS["rotation"]):
        if name in turns:
            edges[name], reach[number] = _wider(grid.edges[name], reach[number], rotations[:, number])
    wider = {key: one.with_rotations_to(reach) for key, one in statistics.items()}
    return replace(grid, **{name: tuple(found) for name, found in edges.items()}), wider


def _wider(edges: np.ndarray, reach: float, values: np.ndarray) -> tuple[np.ndarray, float]:
    """New edges, and what their ends stand for in place of `reach`."""
    inner = reach * np.array([edges[1], edges[-2]])
    outside = (values < inner[0]) | (values > inner[1])
    if len(edges) < 3 or not outside.any():
        return edges, reach
    # The middle between the cell's two edges is to be the mean.
    farther = 2 * float(np.abs(values[outside]).mean()) - float(np.abs(inner).mean())
    if farther <= reach:
        return edges, reach
    return np.concatenate([[-1.0], edges[1:-1] * reach / farther, [1.0]]), farther
