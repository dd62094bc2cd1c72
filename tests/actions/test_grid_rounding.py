"""What rounding to cells costs: all of it, and the part that adds up."""

import numpy as np
import pytest

from spatialvla.actions.bins import NANO_BINS, PUBLISHED_BINS
from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.rounding import rounding


def _actions(rotation, n=4_000):
    """Motions of some length in all directions, with one rotation."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(n, 3))
    moves = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.uniform(0.3, 0.9, (n, 1))
    return np.concatenate([moves, np.tile(rotation, (n, 1)), np.ones((n, 1))], axis=1)


def test_what_is_rounded_alike_is_all_offset():
    grid = ActionGrid.uniform(NANO_BINS)
    middle, beside = np.zeros(3), np.array([0.1, 0.0, -0.1])
    exact, off = (rounding(grid, _actions(rotation))["rotation"] for rotation in (middle, beside))
    assert exact.error == pytest.approx(0, abs=1e-12)
    assert (off.error, off.offset) == pytest.approx((np.hypot(0.1, 0.1),) * 2)


def test_what_falls_evenly_into_cells_has_little_offset():
    found = rounding(ActionGrid.uniform(NANO_BINS), _actions(np.zeros(3), 200_000))["translation"]
    assert 0.04 < found.error < 0.15
    assert found.offset < found.error / 2


def test_more_cells_round_less():
    actions = _actions(np.zeros(3))
    few, many = (
        rounding(ActionGrid.uniform(bins), actions)["translation"] for bins in (NANO_BINS, PUBLISHED_BINS)
    )
    assert many.error < few.error


def test_what_any_grid_clips_does_not_count():
    grid = ActionGrid.uniform(NANO_BINS)
    at_the_border, beyond = (
        rounding(grid, _actions(np.array([0.0, 0.0, yaw])))["rotation"] for yaw in (1.0, 3.0)
    )
    assert beyond == at_the_border
