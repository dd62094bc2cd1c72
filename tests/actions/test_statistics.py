"""Action statistics: published decoding, inverses, resting dimensions, clear errors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open

from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.statistics import MIN_SPAN, ActionStatistics
from spatialvla.errors import CheckpointError, InputError

REFERENCE = Path(__file__).parents[1] / "goldens/reference"
CONFIG = json.loads((REFERENCE / "checkpoint/processor_config.json").read_text())
ACTION_TOKEN_BEGIN = 1836

vectors = hnp.arrays(np.float64, 7, elements=st.floats(-5, 5, allow_subnormal=False))


def statistics(q01: np.ndarray, q99: np.ndarray, mask: np.ndarray | None = None) -> ActionStatistics:
    """Statistics of which only q01, q99 and the mask matter."""
    return ActionStatistics(
        q01=q01,
        q99=q99,
        mean=np.zeros(7),
        std=np.ones(7),
        min=q01,
        max=q99,
        mask=np.arange(7) < 6 if mask is None else mask,
        num_trajectories=1,
        num_transitions=1,
    )


@given(vectors, vectors, vectors)
def test_what_is_clipped_and_what_is_not_make_the_action(one, other, action):
    known = statistics(np.minimum(one, other), np.maximum(one, other))
    outside = known.beyond(action)
    whole = known.denormalize(known.normalize(action) + outside)
    told = known.moves | ~known.mask
    np.testing.assert_allclose(whole[told], action[told], atol=1e-6)
    assert (outside[~known.moves | ~known.mask] == 0).all()
    within = (known.q01 <= action) & (action <= known.q99)
    assert (outside[within] == 0).all()


@pytest.mark.parametrize("number", [1e308, 1e30, 1.1e6])
def test_numbers_that_are_no_motion_are_refused(number):
    with pytest.raises(InputError, match="no robot's motion is in any unit"):
        statistics(np.zeros(7), np.array([0, 0, number, 0, 0, 0, 1.0]))
    with pytest.raises(InputError, match="no robot's motion is in any unit"):
        statistics(np.array([0, -number, 0, 0, 0, 0, 0]), np.ones(7))


some_statistics = st.builds(
    lambda a, b, mask: statistics(np.minimum(a, b), np.maximum(a, b), mask),
    vectors,
    vectors,
    hnp.arrays(bool, 7),
)


@pytest.mark.parametrize("case", [0, 1, 2])
@pytest.mark.parametrize("key", ["bridge_orig/1.0.0", "tiny_robot/0.1.0"], ids=["mask", "no mask"])
def test_decoding_to_robot_units_equals_the_published_one(case, key):
    grid, stats = ActionGrid.from_json(CONFIG), ActionStatistics.from_json(CONFIG["statistics"][key])
    with safe_open(REFERENCE / f"case_tiny56_{case}.safetensors", "np") as file:
        ids = file.get_tensor(f"decode.{key}.action_ids") - ACTION_TOKEN_BEGIN
        expected = file.get_tensor(f"decode.{key}.actions")
    # Unconstrained generation emits text tokens too, which published decoding clips into each kind's range.
    first, stop = np.array(grid.ranges).T
    actions = stats.denormalize(grid.decode(np.clip(ids, first, stop - 1)))
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-9)


@given(some_statistics, st.lists(hnp.arrays(np.float64, 7, elements=st.floats(0, 1)), min_size=1, max_size=5))
def test_denormalize_inverts_normalize(stats, fractions):
    actions = stats.q01 + np.array(fractions) * (stats.q99 - stats.q01)
    normalized = stats.normalize(actions)
    assert (np.abs(normalized[:, stats.mask]) <= 1).all()
    np.testing.assert_array_equal(normalized[:, ~stats.mask], actions[:, ~stats.mask])
    np.testing.assert_allclose(stats.denormalize(normalized), actions, rtol=0, atol=MIN_SPAN + 1e-12)


@given(vectors, hnp.arrays(np.float64, 7, elements=st.floats(0.01, 4)), st.data())
def test_normalize_inverts_denormalize(q01, span, data):
    stats = statistics(q01, q01 + span)
    normalized = data.draw(hnp.arrays(np.float64, (4, 7), elements=st.floats(-1, 1)))
    np.testing.assert_allclose(stats.normalize(stats.denormalize(normalized)), normalized, atol=1e-10)


def test_q01_and_q99_become_the_ends_and_outliers_are_clipped():
    stats = statistics(np.full(7, -0.2), np.full(7, 0.6))
    actions = np.array([[-0.2] * 7, [0.6] * 7, [0.2] * 7, [-9.0] * 7, [9.0] * 7])
    normalized = stats.normalize(actions)
    np.testing.assert_allclose(normalized[:, 0], [-1, 1, 0, -1, 1], atol=1e-12)
    np.testing.assert_array_equal(normalized[:, 6], actions[:, 6])


@pytest.mark.parametrize("span", [0.0, 1e-12])
def test_resting_dimension_is_zero_and_comes_back_as_its_constant(span):
    q01, q99 = np.full(7, -1.0), np.full(7, 1.0)
    q01[3], q99[3] = 0.25, 0.25 + span
    stats = statistics(q01, q99)
    actions = np.full((4, 7), 0.25)
    actions[2, 3] = 0.3
    normalized = stats.normalize(actions)
    np.testing.assert_array_equal(normalized[:, 3], 0)
    np.testing.assert_allclose(stats.denormalize(normalized)[:, 3], 0.25)
    np.testing.assert_allclose(stats.denormalize(np.ones((1, 7)))[0, 3], 0.25)


def test_statistics_of_actions():
    rng = np.random.default_rng(0)
    actions = rng.normal([1, 2, 3, 4, 5, 6, 0.5], 0.1, (5000, 7)).astype(np.float32)
    stats = ActionStatistics.from_actions(actions, num_trajectories=12)
    np.testing.assert_allclose(stats.mean, [1, 2, 3, 4, 5, 6, 0.5], atol=0.01)
    np.testing.assert_allclose(stats.std, 0.1, atol=0.01)
    np.testing.assert_allclose((actions < stats.q01).mean(0), 0.01, atol=1e-3)
    np.testing.assert_allclose((actions > stats.q99).mean(0), 0.01, atol=1e-3)
    np.testing.assert_array_equal(stats.min, actions.min(0))
    np.testing.assert_array_equal(stats.max, actions.max(0))
    assert stats.mask.tolist() == [True] * 6 + [False]
    assert (stats.num_trajectories, stats.num_transitions) == (12, 5000)
    assert ActionStatistics.from_actions(actions, mask=np.ones(7, bool)).mask.all()


@pytest.mark.parametrize("key", CONFIG["statistics"])
def test_json_keeps_the_published_entry(key):
    entry = CONFIG["statistics"][key]
    written = json.loads(json.dumps(ActionStatistics.from_json(entry).to_json()))
    assert written == entry


@pytest.mark.parametrize("rest", [{"std": [float("inf")] * 7}, {"std": "none", "min": [1, 2]}, {}])
def test_only_q01_q99_and_mask_have_to_be_usable(rest):
    decisive = {"q01": [-1] * 7, "q99": [3] * 7, "mask": [True] * 6 + [False]}
    entry = {"action": {**decisive, **rest}, "proprio": {"std": [float("-inf")]}}
    stats = ActionStatistics.from_json(entry)
    np.testing.assert_array_equal(stats.denormalize(np.zeros((1, 7))), [[1] * 6 + [0]])
    assert stats.to_json() == entry


@pytest.mark.parametrize("name", ["q01", "q99"])
def test_infinite_quantiles_are_refused(name):
    numbers = {"q01": [-1] * 7, "q99": [3] * 7} | {name: [float("inf")] * 7}
    with pytest.raises(CheckpointError, match=f"{name} must be 7 finite numbers"):
        ActionStatistics.from_json({"action": numbers})


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"action": None},
        {"action": {"q01": [0] * 7}},
        {"action": {name: ["a"] * 7 for name in ("q01", "q99", "mean", "std", "min", "max")}},
        {"action": {name: [0] * 6 for name in ("q01", "q99", "mean", "std", "min", "max")}},
    ],
)
def test_broken_entry_is_a_checkpoint_error(entry):
    with pytest.raises(CheckpointError, match="statistics cannot be read"):
        ActionStatistics.from_json(entry)


@pytest.mark.wrong_arrays
def test_bad_numbers_are_refused():
    stats = statistics(np.zeros(7), np.ones(7))
    for method in (stats.normalize, stats.denormalize, ActionStatistics.from_actions):
        with pytest.raises(InputError, match="finite"):
            method(np.full((2, 7), np.nan))
        with pytest.raises(InputError, match=r"\(\.\.\., 7\)"):
            method(np.zeros((2, 8)))
    with pytest.raises(InputError, match="at least one action"):
        ActionStatistics.from_actions(np.empty((0, 7)))
    with pytest.raises(InputError, match="q01 exceeds q99"):
        statistics(np.ones(7), np.zeros(7))
    with pytest.raises(InputError, match="q01 must be 7 finite numbers"):
        statistics(np.full(7, np.nan), np.ones(7))
    with pytest.raises(ValueError, match="read-only"):
        stats.q01[0] = 1


def test_symmetric_rotations_make_no_rotation_the_middle():
    low = np.array([-1, -1, -1, -0.3, -0.1, 0.2, 0])
    high = np.array([0.5, 1, 1, 0.1, 0.4, 0.3, 1])
    stats = replace(statistics(low, high), stored={"action": "as it was read"})
    found = stats.with_symmetric_rotations()
    np.testing.assert_array_equal(found.q01, [-1, -1, -1, -0.3, -0.4, -0.3, 0])
    np.testing.assert_array_equal(found.q99, [0.5, 1, 1, 0.3, 0.4, 0.3, 1])
    assert found.normalize(np.zeros(7))[3:6].tolist() == [0, 0, 0]
    assert found.to_json()["action"]["q01"][3:6] == [-0.3, -0.4, -0.3]
