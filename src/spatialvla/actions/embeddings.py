"""Spatial embedding adaptation: learned action embeddings, carried over to a new robot's grid."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import InputError


def adapt_embeddings(
    embeddings: Float[np.ndarray, "old_size E"], old_grid: ActionGrid, new_grid: ActionGrid
) -> Float[np.ndarray, "new_size E"]:
    """Embeddings (old_grid.size, E) -> (new_grid.size, E), trilinear between bin centers, in the same dtype.

    Exact for functions linear in the bin centers; the same grid gives the same numbers back. Beyond the
    outermost old centers the border value continues, also at phi = ±π: training does not tie the embeddings
    at the two ends of phi together, so a blend across them would be neither. Gripper rows are copied. The
    grids may have different numbers of bins. Source: paper section 3.3.
    Raises InputError unless the embeddings are floats with one row for each token of the old grid.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or len(embeddings) != old_grid.size or embeddings.dtype.kind != "f":
        raise InputError(
            f"Embeddings must be floats ({old_grid.size}, E) to fit the old grid, "
            f"got {embeddings.dtype} {embeddings.shape}."
        )
    old_centers, new_centers = list(old_grid.centers.values()), list(new_grid.centers.values())
    adapted = np.empty((new_grid.size, embeddings.shape[1]), embeddings.dtype)
    for block, shape in enumerate(old_grid.shapes):
        table = embeddings[slice(*old_grid.ranges[block])].reshape(*shape, -1)
        table = table.astype(np.promote_types(table.dtype, np.float32), copy=False)
        for axis in range(3):
            dimension = 3 * block + axis
            table = _interpolate(table, axis, old_centers[dimension], new_centers[dimension])
        adapted[slice(*new_grid.ranges[block])] = table.reshape(-1, table.shape[-1])
    adapted[slice(*new_grid.ranges[2])] = embeddings[slice(*old_grid.ranges[2])]
    return adapted


def _interpolate(
    table: Float[np.ndarray, "..."], axis: int, old: Float[np.ndarray, " old"], new: Float[np.ndarray, " new"]
) -> Float[np.ndarray, "..."]:
    """A table resampled along one axis from old to new positions: linear, constant beyond the outermost."""
    position = np.interp(new, old, np.arange(len(old)))
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(len(old)))).astype(table.dtype)
    before, after = table.shape[:axis], table.shape[axis + 1 :]
    # As one matrix product over contiguous memory this is several times faster than gathering and blending.
    resampled: np.ndarray = weights @ table.reshape(math.prod(before), len(old), -1)
    return resampled.reshape(*before, len(new), *after)
