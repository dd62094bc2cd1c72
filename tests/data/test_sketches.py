"""Streamed statistics: exact while all fits, close beyond, and the same however the dataset is split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.actions.statistics import ActionStatistics
from spatialvla.data import sketches
from spatialvla.data.sketches import ActionSketch, StateSketch
from spatialvla.errors import InputError

NUMBERS = ("q01", "q99", "mean", "std", "min", "max")


class Episodes:
    """Episode k: a walk of its own length and scale."""

    def __init__(self, length=50):
        self.length = length

    def __call__(self, episode):
        rng = np.random.default_rng([1, episode])
        actions = rng.standard_normal((self.length + episode % 7, 7)) * (1 + episode % 5) + episode / 10
        actions[:, 6] = rng.random(len(actions)) > 0.5
        return actions


def sketch_actions(source, episodes):
    sketch = ActionSketch()
    for episode in range(episodes):
        sketch.add(source(episode), episode)
    return sketch


def everything(source, episodes):
    return np.concatenate([source(k) for k in range(episodes)])


def test_it_is_exact_while_all_fits():
    source = Episodes()
    actions = everything(source, 20)
    sketch = sketch_actions(source, 20)
    exact = ActionStatistics.from_actions(actions, num_trajectories=20)
    got = sketch.statistics()
    for name in NUMBERS:
        np.testing.assert_allclose(getattr(got, name), getattr(exact, name), atol=1e-12)
    assert (got.num_trajectories, got.num_transitions) == (20, len(actions))


def test_beyond_it_is_close(monkeypatch):
    monkeypatch.setattr(sketches, "SAMPLE", 1 << 13)
    source = Episodes(length=1000)
    actions = everything(source, 100)
    sketch = sketch_actions(source, 100)
    assert len(sketch.sample) == 1 << 13
    got = sketch.statistics()
    np.testing.assert_allclose(got.mean, actions.mean(0), rtol=1e-12)
    np.testing.assert_allclose(got.std, actions.std(0), rtol=1e-12)
    for name, rank in (("q01", 0.01), ("q99", 0.99)):
        ranks = (actions[:, :6] <= getattr(got, name)[:6]).mean(0)
        assert np.abs(ranks - rank).max() < 5 * (0.01 * 0.99 / (1 << 13)) ** 0.5


@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.permutations(range(4)))
def test_any_split_and_order_gives_the_same(shares, order):
    source = Episodes(length=5)
    whole = sketch_actions(source, 12)
    parts = [ActionSketch() for _ in range(4)]
    for episode, share in enumerate(shares):
        parts[share].add(source(episode), episode)
    merged = ActionSketch()
    for part in order:
        merged.merge(parts[part])
    assert merged.episodes == 12
    for name in NUMBERS:
        np.testing.assert_allclose(
            getattr(merged.statistics(), name), getattr(whole.statistics(), name), atol=1e-12
        )


def test_the_sample_does_not_depend_on_the_split(monkeypatch):
    monkeypatch.setattr(sketches, "SAMPLE", 100)
    source = Episodes()
    whole, merged, part = sketch_actions(source, 10), ActionSketch(), ActionSketch()
    for episode in (7, 2, 9, 0, 4):
        merged.add(source(episode), episode)
    for episode in (1, 3, 5, 6, 8):
        part.add(source(episode), episode)
    merged.merge(part)
    np.testing.assert_array_equal(np.sort(merged.hashes), np.sort(whole.hashes))


def test_bad_input():
    with pytest.raises(InputError, match="no actions"):
        ActionSketch().statistics()
    with pytest.raises(InputError, match=r"\(T, 7\), not \(7,\)"):
        ActionSketch().add(np.zeros(7), 0)
    with pytest.raises(InputError):
        ActionSketch().add(np.full((2, 7), np.nan), 0)


def test_states_of_any_size_are_sketched_alike():
    rng = np.random.default_rng(2)
    states = [rng.normal(size=(20 + k, 11)) for k in range(6)]
    whole, parts = StateSketch(11), [StateSketch(11), StateSketch(11)]
    for number, each in enumerate(states):
        whole.add(each, number)
        parts[number % 2].add(each, number)
    parts[1].merge(parts[0])
    for sketch in (whole, parts[1]):
        found = sketch.statistics()
        np.testing.assert_allclose(found.q01, np.quantile(np.concatenate(states), 0.01, axis=0), atol=1e-12)
        np.testing.assert_allclose(found.q99, np.quantile(np.concatenate(states), 0.99, axis=0), atol=1e-12)
    with pytest.raises(InputError, match=r"The states of an episode have the shape \(T, 11\), not \(4, 3\)"):
        whole.add(np.zeros((4, 3)), 9)
    with pytest.raises(InputError, match="no states"):
        StateSketch(3).statistics()
