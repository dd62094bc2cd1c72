"""Chunks that somebody interrupted are no samples."""

from fake_source import FakeSource

from spatialvla.data.episodes import WholeChunks, filled

SOURCE = FakeSource("one", (6, 9), takeover={0: (), 1: (4,)})


def test_chunks_that_hold_a_step_taken_over_are_left_out():
    whole = WholeChunks(SOURCE, 3)
    assert [whole.episode(index).starts.tolist() for index in range(2)] == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 5, 6, 7, 8],
    ]
    assert whole.episode(1).images([0]).shape == (1, 60, 80, 3)
    assert (whole.key, len(whole)) == ("one", 2)
    assert len({whole.fingerprint, WholeChunks(SOURCE, 4).fingerprint, SOURCE.fingerprint}) == 3


def test_a_dataset_that_tells_of_no_takeover_stays_as_it_is():
    plain = FakeSource("plain", (4,), no_ops=frozenset({2}))
    assert WholeChunks(plain, 3).episode(0).starts.tolist() == [0, 1, 3]


def test_steps_without_words_have_those_before_or_else_the_next_ones():
    assert filled(["", " a ", "", "b", ""]) == ("a", "a", "a", "b", "b")
    assert filled(["", ""]) == ("", "")
    assert filled([]) == ()
