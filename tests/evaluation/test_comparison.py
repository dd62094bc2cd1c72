import itertools
from dataclasses import replace

import pytest
from some_results import some_results

from spatialvla.errors import InputError
from spatialvla.evaluation.results.comparison import compare, p_text, points
from spatialvla.evaluation.results.intervals import Pairs
from spatialvla.evaluation.results.outcomes import Tally
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.execution import Execution

OTHER = {"policy": "micro", "checkpoint": "f" * 64}


def test_episodes_are_paired_by_task_and_start_state():
    comparison = compare(some_results("+-+- ++--"), some_results("++-- +-+-", **OTHER))
    assert comparison.tasks == {0: Pairs(1, 1, 1, 1), 1: Pairs(1, 1, 1, 1)}
    assert comparison.total == Pairs(2, 2, 2, 2)
    assert comparison.names == ("nano", "micro")
    assert comparison.tallies == (Tally(4, 8), Tally(4, 8))
    assert comparison.rules == ()
    assert "No difference is shown" in comparison.verdict()


def test_only_common_start_states_count():
    comparison = compare(some_results("+++"), some_results("-+ ++", **OTHER))
    assert comparison.total == Pairs(1, 1, 0, 0)
    assert comparison.unpaired == 3


def test_a_clear_difference_is_called_one():
    better = compare(some_results("-" * 10 + "+" * 5), some_results("+" * 15, **OTHER))
    assert better.total.p_value == pytest.approx(2 / 2**10)
    assert better.verdict().startswith("micro is better than nano on these start states")
    worse = compare(some_results("+" * 15), some_results("-" * 10 + "+" * 5, **OTHER))
    assert worse.verdict().startswith("nano is better than micro")
    same = compare(some_results("+-"), some_results("+-", **OTHER))
    assert same.verdict().startswith(
        "nano and micro succeeded and failed in the same episodes; with 2 of them"
    )


@pytest.mark.parametrize(("first", "second"), list(itertools.product(range(7), range(7))))
@pytest.mark.parametrize(("both", "neither"), [(0, 0), (4, 0), (0, 8), (6, 6)])
def test_the_sentence_contradicts_neither_the_interval_nor_the_test(both, first, second, neither):
    outcomes = [("+", "+")] * both + [("+", "-")] * first + [("-", "+")] * second + [("-", "-")] * neither
    if not outcomes:
        return
    one, other = map("".join, zip(*outcomes, strict=True))
    comparison = compare(some_results(one), some_results(other, **OTHER))
    low, high = comparison.total.interval
    said = comparison.verdict()
    if "No difference is shown" in said or "the same episodes" in said:
        assert low <= 0 <= high
        assert comparison.total.p_value >= 0.05
    elif " is better than " in said:
        assert low > 0 or high < 0
        assert comparison.total.p_value < 0.05
        assert said.startswith("micro" if comparison.total.difference > 0 else "nano")
    else:
        assert "too few episodes to be sure" in said
        assert ("leaves out 0" in said) == (low > 0 or high < 0)
        assert said.startswith("micro" if comparison.total.difference > 0 else "nano")


def test_four_episodes_to_none_are_too_few():
    said = compare(some_results("----"), some_results("++++", **OTHER)).verdict()
    assert said == (
        "micro may be better than nano, but these are too few episodes to be sure: of the 4 episodes in which "
        "the two differ, nano succeeded in 0 and micro in 4, and a split as uneven as that comes about by chance "
        "with probability 0.12, while the 95 % interval of the difference, +30.7 to +100.0 points, leaves out 0."
    )


def test_the_same_policy_is_told_apart_by_what_differs():
    one = some_results("+-")
    assert compare(one, replace(one, checkpoint="f" * 64)).names == ("nano 0123456789ab", "nano ffffffffffff")
    twice = replace(one, settings=PolicySettings(Execution("receding", steps=2)))
    assert compare(one, twice).names == ("nano (whole chunks)", "nano (receding, 2 steps)")
    sighted = replace(one, depth="simulator")
    assert compare(one, sighted).names == ("nano (depth: estimate)", "nano (depth: simulator)")
    assert compare(one, one).names == ("nano (1)", "nano (2)")


def test_other_rules_are_said_and_other_suites_refused():
    one = some_results("+-")
    shorter = replace(one.conventions, time_limit=10)
    assert compare(one, replace(one, conventions=shorter)).rules == ("conventions time_limit: 20, 10",)
    told = replace(one, conventions=replace(one.conventions, state="two fingers"))
    assert compare(told, one).rules == ("conventions state: two fingers, none",)
    assert compare(told, one).names == ("nano (fake, the state)", "nano (fake, no state)")
    assert compare(one, replace(one, versions={"torch": "2.7.0"})).rules == ("version torch: 2.13.0, 2.7.0",)
    with pytest.raises(InputError, match="libero_spatial cannot be compared with libero_goal"):
        compare(one, some_results("+-", suite="libero_goal"))
    with pytest.raises(InputError, match="no start state in common"):
        compare(some_results("+"), replace(some_results("+ +"), episodes=some_results("+ +").episodes[1:]))


def test_numbers_say_no_more_than_they_know():
    assert [p_text(value) for value in (0.5, 0.0123, 0.00001)] == ["0.5", "0.012", "< 0.0001"]
    assert [points(value) for value in (0.125, -0.02, -0.0001)] == ["+12.5", "−2.0", "0.0"]
