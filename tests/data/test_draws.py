"""The order of training: a true permutation, weights kept, ranks apart, and a step enough to go on from."""

import tracemalloc
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.data.draws import EvenDraws, MixtureDraws, Permutation, ShardedSampler
from spatialvla.errors import InputError


@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_it_is_a_permutation(size, seed):
    assert sorted(Permutation(size, seed)(np.arange(size))) == list(range(size))


def test_it_looks_shuffled_and_depends_on_its_key():
    size = 10_000
    order = Permutation(size, 1, 2)(np.arange(size))
    assert not np.array_equal(order, Permutation(size, 1, 3)(np.arange(size)))
    assert abs(np.corrcoef(np.arange(size), order)[0, 1]) < 0.05
    assert (np.abs(np.diff(order)) < 10).mean() < 0.01


def triples(draws):
    return list(zip(draws.source.tolist(), draws.episode.tolist(), draws.start.tolist(), strict=True))


def test_an_epoch_of_weight_one_is_every_sample_once():
    counts = [np.array([3, 0, 5]), np.array([4])]
    mixture = MixtureDraws(counts, [1, 1], seed=0)
    first, second = (triples(mixture(np.arange(12) + 12 * epoch)) for epoch in (0, 1))
    everything = [(0, 0, k) for k in range(3)] + [(0, 2, k) for k in range(5)] + [(1, 0, k) for k in range(4)]
    assert sorted(first) == sorted(second) == everything
    assert first != second
    assert first != everything


@given(st.floats(0.1, 3), st.floats(0.1, 3), st.integers(0, 1000))
def test_weights_are_shares_and_no_sample_is_left_behind(one, two, seed):
    mixture = MixtureDraws([np.array([7, 13]), np.array([10, 30])], [one, two], seed)
    assert len(mixture) == round(20 * one) + round(40 * two)
    epochs = 20
    drawn = Counter(triples(mixture(np.arange(epochs * len(mixture)))))
    for source, weight, size in ((0, one, 20), (1, two, 40)):
        times = [count for (where, _, _), count in drawn.items() if where == source]
        assert sum(times) == epochs * round(size * weight)
        assert max(times) - min(times) <= 1
        assert len(times) == min(size, epochs * round(size * weight))


def test_ranks_share_each_step_without_overlap_and_a_step_resumes():
    whole = ShardedSampler(12)
    parts = [ShardedSampler(3, rank, 4) for rank in range(4)]
    for step in range(5):
        assert np.concatenate([part.numbers(step) for part in parts]).tolist() == whole.numbers(step).tolist()
    resumed = ShardedSampler(3, 1, 4, first_step=3)
    assert list(islice(resumed, 2)) == list(islice(parts[1], 5))[3:]


def test_evaluation_is_evenly_spaced_and_shared_among_datasets():
    spaced = EvenDraws([np.full(100, 10), np.array([3, 0, 1]), np.zeros(2, int)], 24)
    draws = spaced(np.arange(len(spaced)))
    assert np.bincount(draws.source).tolist() == [20, 4]
    places = (draws.episode * 10 + draws.start)[draws.source == 0]
    assert np.diff(places).tolist() == [50] * 19
    small = [(e, s) for o, e, s in zip(draws.source, draws.episode, draws.start, strict=True) if o == 1]
    assert small == [(0, 0), (0, 1), (0, 2), (2, 0)]
    assert len(EvenDraws([np.array([5])], 100)) == 5
    assert len(EvenDraws([np.array([0])], 100)) == 0


def test_ten_million_samples_take_no_memory():
    counts = np.full(100_000, 100)
    tracemalloc.start()
    mixture = MixtureDraws([counts, counts[:10]], [1.0, 2.0], seed=0)
    draws = mixture(np.arange(9_999_000, 9_999_256))
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()
    assert len(set(triples(draws))) > 250


def test_what_cannot_be_drawn():
    with pytest.raises(InputError, match="no samples to draw"):
        MixtureDraws([np.array([0, 0])], [1.0], 0)
    with pytest.raises(InputError, match="a weight of at least 0"):
        MixtureDraws([np.array([1])], [-1.0], 0)
    with pytest.raises(InputError, match="rank 2 of 2"):
        ShardedSampler(4, 2, 2)
