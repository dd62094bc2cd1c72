import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.evaluation.results.intervals import Pairs, wilson_interval

counts = st.integers(0, 60)
pairs = st.builds(Pairs, counts, counts, counts, counts)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (60, 100, 0.5020, 0.6906), (10, 10, 0.7225, 1.0)],
)
def test_wilson_intervals_equal_the_tabulated_ones(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_holds_the_rate_and_mirrors_with_it(successes, extra):
    trials = successes + extra
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:2635, table II; the first minus the second there.
        (Pairs(20, 12, 2, 16), 0.0562, 0.3292),
        # Airway hyper-responsiveness, Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850.
        (Pairs(1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_intervals_of_paired_differences_equal_the_published_ones(table, low, high):
    assert table.interval == pytest.approx((-high, -low), abs=5e-4)


def test_the_exact_test_equals_hand_computed_values():
    # 2 (C(8,0) + C(8,1)) / 2^8, the hyper-responsiveness data; 2 (1 + 14 + 91) / 2^14; no evidence at all.
    assert Pairs(1, 1, 7, 12).p_value == pytest.approx(18 / 256)
    assert Pairs(20, 12, 2, 16).p_value == pytest.approx(2 * 106 / 2**14)
    assert Pairs(5, 3, 3, 5).p_value == 1
    assert Pairs(5, 0, 0, 5).p_value == 1
    assert Pairs(0, 0, 10, 0).p_value == pytest.approx(2 / 2**10)


@given(pairs)
def test_swapping_the_policies_mirrors_everything(table):
    swapped = Pairs(table.both, table.second, table.first, table.neither)
    low, high = table.interval
    assert -1 <= low <= table.difference <= high <= 1
    assert swapped.difference == -table.difference
    assert swapped.interval == pytest.approx((-high, -low))
    assert swapped.p_value == table.p_value
    assert 0 < table.p_value <= 1


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Exact coverage at n = 20 over the multinomial distribution, for several truths."""
    trials = 20
    for truth in [(0.5, 0.1, 0.2, 0.2), (0.3, 0.05, 0.05, 0.6), (0.1, 0.3, 0.3, 0.3), (0.7, 0.0, 0.2, 0.1)]:
        covered = 0.0
        for both, first, second in product(range(trials + 1), repeat=3):
            if both + first + second <= trials:
                table = Pairs(both, first, second, trials - both - first - second)
                low, high = table.interval
                if low <= truth[2] - truth[1] <= high:
                    covered += _probability(table, truth)
        assert 0.93 < covered <= 1


def _probability(table, truth):
    counts = (table.both, table.first, table.second, table.neither)
    ways = math.factorial(table.trials) / math.prod(math.factorial(count) for count in counts)
    return ways * math.prod(p**count for p, count in zip(truth, counts, strict=True))


def test_nothing_played_says_nothing():
    empty = Pairs(0, 0, 0, 0)
    assert (empty.rates, empty.difference, empty.interval, empty.p_value) == ((0, 0), 0, (-1, 1), 1)
