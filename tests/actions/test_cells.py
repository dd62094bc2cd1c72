"""Which cells of a grid are neighbors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid

GRID = ActionGrid.uniform(Bins(4, 6, 3, 3, 2, 5))


def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(..., 3, 3): bins between tokens of one step, along the dimensions of each kind."""
    cells = GRID.cells
    direct = np.abs(cells.bins[first] - cells.bins[second])
    return np.minimum(direct, cells.periods[first] - direct)


def test_cells_are_in_the_order_of_the_tokens():
    assert GRID.cells.bins.shape == GRID.cells.periods.shape == (GRID.size, 3)
    translation, rotation = np.arange(GRID.n_translation), GRID.n_translation + np.arange(GRID.n_rotation)
    for numbers, slot, names in (
        (translation, 0, ("theta", "phi", "r")),
        (rotation, 1, ("roll", "pitch", "yaw")),
    ):
        steps = np.tile([start for start, _ in GRID.ranges], (len(numbers), 1))
        steps[:, slot] = numbers
        found = GRID.bin_indices(steps)
        np.testing.assert_array_equal(GRID.cells.bins[numbers], np.stack([found[n] for n in names], axis=1))


@given(st.floats(0.02, 1.0), st.floats(0.3, 2.8))
def test_actions_on_both_sides_of_the_seam_of_phi_are_neighbors(r, theta):
    xy = r * np.sin(theta)
    steps = [[-xy, side * 1e-9, r * np.cos(theta), 0, 0, 0, 1] for side in (-1, 1)]
    below, above = GRID.encode(np.clip(steps, -1, 1))
    assert below[0] != above[0]
    np.testing.assert_array_equal(apart(below, above)[0], [0, 1, 0])


def test_no_other_dimension_wraps_and_grippers_are_no_neighbors():
    low = GRID.encode(np.array([0, 0, 1, -1, -1, -1, 0.0]))
    high = GRID.encode(np.array([0, 0, -1, 1, 1, 1, 1.0]))
    assert apart(low, high)[0].tolist() == [3, 0, 0]
    assert apart(low, high)[1].tolist() == [2, 1, 4]
    assert apart(low, high)[2].max() > 10**9
    assert apart(low, low).max() == 0
