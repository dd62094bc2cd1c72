"""Spatial embedding adaptation: identity, linear exactness inside the borders, constancy beyond."""

import numpy as np
import pytest
from grid_strategies import PRETRAINING, gaussians, grids, small_bins
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.actions.bins import BLOCKS
from spatialvla.actions.embeddings import adapt_embeddings
from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import InputError


def token_centers(grid: ActionGrid, block: str) -> np.ndarray:
    """The bin centers of a block's tokens, (tokens, 3), in token order."""
    axes = np.meshgrid(*(grid.centers[name] for name in BLOCKS[block]), indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, 3)


def linear_probe(grid: ActionGrid) -> np.ndarray:
    """Embeddings linear in the bin centers, with other slopes on each axis; a column for each block."""
    slopes = np.array([1.0, -2.0, 3.0])
    probe = np.zeros((grid.size, 2))
    probe[slice(*grid.ranges[0]), 0] = token_centers(grid, "translation") @ slopes + 0.5
    probe[slice(*grid.ranges[1]), 1] = token_centers(grid, "rotation") @ slopes - 0.5
    probe[slice(*grid.ranges[2])] = [[7, 8], [9, 10]]
    return probe


@given(grids, st.sampled_from([np.float16, np.float32, np.float64]))
def test_same_grid_is_the_identity(grid, dtype):
    embeddings = np.random.default_rng(0).standard_normal((grid.size, 5)).astype(dtype)
    adapted = adapt_embeddings(embeddings, grid, grid)
    assert adapted.dtype == dtype
    np.testing.assert_array_equal(adapted, embeddings)


@given(grids, grids)
def test_linear_functions_are_exact_inside_and_constant_beyond_the_borders(old, new):
    adapted = adapt_embeddings(linear_probe(old), old, new)
    for column, (block, names) in enumerate(BLOCKS.items()):
        # Clamping to the old centers leaves inner positions alone and holds the border value beyond them.
        limits = np.array([old.centers[name][[0, -1]] for name in names])
        held = np.clip(token_centers(new, block), limits[:, 0], limits[:, 1])
        expected = held @ [1.0, -2.0, 3.0] + (0.5 if column == 0 else -0.5)
        np.testing.assert_allclose(adapted[slice(*new.ranges[column]), column], expected, atol=1e-9)
    np.testing.assert_array_equal(adapted[-2:], [[7, 8], [9, 10]])


@given(gaussians, small_bins, st.floats(0.3, 1))
def test_values_stay_within_the_old_ones(fits, bins, min_sigma):
    old, new = ActionGrid.uniform(bins), ActionGrid.from_gaussians(fits, min_sigma)
    embeddings = np.random.default_rng(1).standard_normal((old.size, 3))
    adapted = adapt_embeddings(embeddings, old, new)
    assert adapted.shape == (8194, 3)
    for before, after in zip(old.ranges, new.ranges, strict=True):
        assert adapted[slice(*after)].min() >= embeddings[slice(*before)].min() - 1e-12
        assert adapted[slice(*after)].max() <= embeddings[slice(*before)].max() + 1e-12


def test_published_grid_is_adapted_exactly_in_float32():
    old = ActionGrid.from_gaussians(PRETRAINING)
    new = ActionGrid.from_gaussians(PRETRAINING, min_sigma=0.5)
    probe = linear_probe(old).astype(np.float32)
    adapted = adapt_embeddings(probe, old, new)
    inside = np.ones(new.n_translation, dtype=bool)
    for axis, name in enumerate(BLOCKS["translation"]):
        centers = token_centers(new, "translation")[:, axis]
        inside &= (centers >= old.centers[name][0]) & (centers <= old.centers[name][-1])
    assert inside.mean() > 0.6
    error = np.abs(adapted - linear_probe(new))[: new.n_translation, 0][inside]
    assert error.max() < 5e-6


@pytest.mark.wrong_arrays
@pytest.mark.parametrize(
    "embeddings", [np.zeros((8193, 4)), np.zeros(8194), np.zeros((8194, 4), int), np.zeros((2, 8194, 4))]
)
def test_misfitting_embeddings_are_refused(embeddings):
    with pytest.raises(InputError, match=r"\(8194, E\)"):
        adapt_embeddings(embeddings, ActionGrid.uniform(), ActionGrid.uniform())
