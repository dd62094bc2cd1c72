"""How much of a chunk that somebody interrupted is a plan."""

import numpy as np
from fake_source import FakeSource

from spatialvla.data.episodes import MovingChunks, filled, planned_steps

SOURCE = FakeSource("one", (6, 9), takeover={0: (), 1: (4,)})


def test_a_plan_ends_with_the_answer_to_where_it_led():
    """The action at step 4 answers where those before it led; it was not carried out, so those behind it do not."""
    planned = [
        planned_steps(SOURCE.episode(index), np.arange(length), 3) for index, length in ((0, 6), (1, 9))
    ]
    assert [steps.tolist() for steps in planned] == [[3] * 6, [3, 3, 3, 2, 1, 3, 3, 3, 3]]
    plain = FakeSource("plain", (4,)).episode(0)
    assert planned_steps(plain, np.arange(4), 3).tolist() == [3, 3, 3, 3]


def test_steps_that_a_policy_took_over_are_samples():
    moving = MovingChunks(SOURCE, 3)
    assert [moving.episode(index).starts.tolist() for index in range(2)] == [list(range(6)), list(range(9))]
    assert moving.episode(1).images([0]).shape == (1, 60, 80, 3)
    assert (moving.key, len(moving)) == ("one", 2)
    assert len({moving.fingerprint, MovingChunks(SOURCE, 4).fingerprint, SOURCE.fingerprint}) == 3


def test_a_dataset_that_tells_of_no_standing_still_stays_as_it_is():
    plain = FakeSource("plain", (4,), no_ops=frozenset({2}))
    assert MovingChunks(plain, 3).episode(0).starts.tolist() == [0, 1, 3]


def test_steps_without_words_have_those_before_or_else_the_next_ones():
    assert filled(["", " a ", "", "b", ""]) == ("a", "a", "a", "b", "b")
    assert filled(["", ""]) == ("", "")
    assert filled([]) == ()
