"""Fast rotations are decoded to what they are in the mean, and every action keeps its token."""

from dataclasses import replace

import numpy as np
import pytest

from spatialvla.actions.bins import NANO_BINS, Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.rotation_reach import with_rotation_reach
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.errors import InputError

TURNS = ("roll", "pitch", "yaw")
GRID = ActionGrid.uniform(NANO_BINS)
REACH = np.array([0.2, 0.25, 0.3])


def actions(count=4000):
    """Slow rotations mostly; a tenth of the steps turn about x by 0.3, which is beyond the statistics."""
    rng = np.random.default_rng(0)
    found = np.concatenate(
        [rng.uniform(-1, 1, (count, 3)), rng.normal(0, 0.03, (count, 3)), np.ones((count, 1))], 1
    )
    found[: count // 10, 3] = rng.choice([-0.3, 0.3], count // 10)
    found[:5, 4] = 0.24
    return found


def statistics(reach=REACH):
    found = ActionStatistics.from_actions(actions())
    q01, q99 = found.q01.copy(), found.q99.copy()
    q01[3:6], q99[3:6] = -reach, reach
    return replace(found, q01=q01, q99=q99)


def test_every_action_keeps_its_token_and_fast_rotations_are_decoded_to_their_mean():
    before, data = statistics(), actions()
    grid, found = with_rotation_reach(GRID, {"arm": before}, data[:, 3:6], TURNS)
    after = found["arm"]
    tokens = GRID.encode(before.normalize(data))
    np.testing.assert_array_equal(grid.encode(after.normalize(data)), tokens)
    fast = np.abs(data[:, 3]) > 0.12  # beyond the inner edge of the outermost cell
    old, new = (one.denormalize(cut.decode(tokens)) for one, cut in ((before, GRID), (after, grid)))
    np.testing.assert_allclose(np.abs(old[fast, 3]), 0.16)
    np.testing.assert_allclose(np.abs(new[fast, 3]), np.abs(data[fast, 3]).mean())
    np.testing.assert_allclose(new[~fast, 3], old[~fast, 3], atol=1e-12)
    # About y the outermost cell reaches far enough but for what it would need to reach less; about z nothing is there.
    np.testing.assert_allclose(after.q99[4:6], [2 * 0.24 - 0.15, 0.3])
    np.testing.assert_allclose(new[:, [0, 1, 2, 5, 6]], old[:, [0, 1, 2, 5, 6]])


def test_cells_that_reach_far_enough_stay():
    wide = statistics(np.array([1.0, 1.0, 1.0]))
    grid, found = with_rotation_reach(GRID, {"arm": wide}, actions()[:, 3:6], TURNS)
    assert grid == GRID
    np.testing.assert_array_equal(found["arm"].q99, wide.q99)


def test_dimensions_that_are_not_named_stay():
    grid, found = with_rotation_reach(GRID, {"arm": statistics()}, actions()[:, 3:6] * 9, ["yaw"])
    assert (grid.roll, grid.pitch) == (GRID.roll, GRID.pitch)
    np.testing.assert_array_equal(found["arm"].q99[3:5], REACH[:2])
    assert found["arm"].q99[5] > REACH[2]


def test_a_dimension_of_one_cell_stays():
    few = ActionGrid.uniform(Bins(theta=4, phi=8, r=3, roll=1, pitch=2, yaw=5))
    grid, found = with_rotation_reach(few, {"arm": statistics()}, actions()[:, 3:6] * 9, TURNS)
    assert grid.roll == few.roll
    assert found["arm"].q99[3] == REACH[0]
    assert (found["arm"].q99[4:6] > REACH[1:]).all()


def test_datasets_that_scale_rotations_otherwise_are_refused():
    lopsided = replace(statistics(), q01=np.minimum(statistics().q01, -0.22))
    for other in (lopsided, statistics(2 * REACH)):
        with pytest.raises(InputError, match="scale them alike and as far to either side"):
            with_rotation_reach(GRID, {"arm": statistics(), "other": other}, actions()[:, 3:6], TURNS)
