"""The measurement of how well uncertainty predicts failure: its numbers on made-up episodes whose answers are known."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from spatialvla.evaluation.results.episode_uncertainty import EpisodeUncertainty
from spatialvla.evaluation.results.outcomes import EpisodeResult

FILE = Path(__file__).parents[2] / "benchmarks" / "failure_prediction_measures.py"


@pytest.fixture(scope="module")
def measures() -> ModuleType:
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[FILE.stem] = module
    spec.loader.exec_module(module)
    return module


def episode(state: int, success: bool, *spread: float, task: int = 0) -> EpisodeResult:
    """One whose decisions are four steps apart."""
    same = (1.0,) * len(spread)
    told = EpisodeUncertainty(tuple(range(0, 4 * len(spread), 4)), same, same, same, spread)
    return EpisodeResult(task, state, success, 4 * len(spread), 1.0, uncertainty=told)


def test_auroc_is_the_share_of_pairs_in_the_right_order(measures):
    scores, failed = np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])
    one = np.zeros(4)
    assert measures.auroc(scores, failed, one).value == (1 + 1 + 0 + 0.5) / 4
    # Within tasks there are the pairs 3 > 2 and 1 = 1.
    assert measures.auroc(scores, failed, np.array([0, 1, 0, 1])).value == 0.75
    assert measures.auroc(scores, failed, np.array([0, 0, 1, 1])) is None


def test_its_interval_is_that_of_chance_where_scores_mean_nothing(measures):
    rng = np.random.default_rng(1)
    found = measures.auroc(rng.normal(size=400), np.arange(400) % 2 == 0, np.zeros(400))
    assert found.low < 0.5 < found.high
    # The standard error of an AUROC without meaning is sqrt((n + m + 1) / (12 n m)) = 0.0289.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.0289, rel=0.1)


def test_only_what_is_known_at_a_step_counts(measures):
    seen = episode(0, False, 1.0, 5.0, 3.0, 99.0)
    at = {name: measures.score(seen, "spread_mm", name, 11) for name in measures.SUMMARIES}
    assert at == {"latest": 3.0, "mean": 3.0, "max": 5.0}


def test_episodes_that_have_ended_are_not_predicted(measures):
    episodes = [episode(0, True, 1, 1), episode(1, True, 1, 1, 1), episode(2, False, 1, 1, 1, 1)]
    assert measures.under_way(episodes, 4) == {0: (1, 2), 4: (1, 2), 8: (1, 1), 12: (1, 0)}


def test_a_tasks_rate_tells_nothing_of_its_own_episode(measures):
    episodes = [episode(state, state % 2 == 0, 1.0) for state in range(6)]
    assert measures.task_rate(episodes, episodes[0]) == 1.0
    assert measures.task_rate(episodes, episodes[1]) == 0.0


def test_a_rule_stops_where_the_running_mean_is_above(measures):
    rule = measures.mean_above("spread_mm", 2.0)
    assert rule(episode(0, False, 1, 3, 3, 0)) == 8
    assert rule(episode(0, False, 1, 3, 2, 0)) is None
    assert measures.later_than(8)(episode(0, False, 1, 1, 1)) == 8
    assert measures.later_than(12)(episode(0, False, 1, 1, 1)) is None


def test_limits_are_chosen_in_other_start_states(measures):
    """In start state 0 successes are as unsure as failures elsewhere, which a limit learned there cannot know."""
    good = [episode(state, True, 1, 1, task=task) for state in range(1, 10) for task in range(4)]
    bad = [episode(state, False, 5, 5, 5, task=4) for state in range(10)]
    odd = [episode(0, True, 5, 5, task=task) for task in range(4)]
    rules = list(measures.rules_above([*good, *bad, *odd], "spread_mm").values())
    found = measures.held_out_stops([*good, *bad, *odd], rules, share=0.13)
    assert (found.failures, found.stopped, found.successes, found.lost) == (10, 10, 40, 4)
    assert set(found.steps) == {0}


def test_probabilities_are_those_of_other_start_states(measures):
    """Half of the episodes are sure and succeed, half are not and fail."""
    good = [episode(state, True, 1, 1, task=task) for state in range(10) for task in range(4)]
    bad = [episode(state, False, 5, 5, task=task) for state in range(10) for task in range(4)]
    found = measures.calibration([*good, *bad], "spread_mm", 4)
    assert sum(each.episodes for each in found.bins) == 80
    assert found.base == pytest.approx(0.25)
    assert found.brier < 0.01
    for each in found.bins:
        assert each.failed in (0, each.episodes)
        assert abs(each.predicted - each.failed / each.episodes) < 0.1
