"""Mixtures: what is held out stays out, and every dataset has its share."""

from dataclasses import replace

import numpy as np
import pytest
from fake_source import CAMERA, FakeSource

from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import InputError

BINS = Bins(theta=4, phi=8, r=4, roll=4, pitch=4, yaw=4)
ONE, TWO = FakeSource("one", (10,) * 20), FakeSource("two", (4, 6) * 25)


def test_episodes_are_held_out_whole_and_per_dataset():
    mixture = TrainingMixture.open([ONE, TWO], [1.0, 2.0], held_out=0.1, seed=3)
    assert [int(out.sum()) for out in mixture.held_out] == [2, 5]
    draws = mixture.training(np.arange(3 * len(mixture.training)))
    for source, out in enumerate(mixture.held_out):
        drawn = np.unique(draws.episode[draws.source == source])
        assert drawn.tolist() == np.flatnonzero(~out).tolist()
    evaluated = mixture.evaluation(1000)(np.arange(1000))
    assert all(mixture.held_out[s][e] for s, e in zip(evaluated.source, evaluated.episode, strict=True))

    alone = TrainingMixture.open([TWO], held_out=0.1, seed=3)
    np.testing.assert_array_equal(alone.held_out[0], mixture.held_out[1])
    other = TrainingMixture.open([TWO], held_out=0.1, seed=4)
    assert not np.array_equal(other.held_out[0], alone.held_out[0])


def test_weights_are_shares_of_the_draws():
    mixture = TrainingMixture.open([ONE, TWO], [0.5, 2.0])
    draws = mixture.training(np.arange(len(mixture.training)))
    assert np.bincount(draws.source).tolist() == [100, 500]
    some = mixture.training(np.arange(120))
    assert 5 < np.bincount(some.source)[0] < 40


def test_shares_as_published_count_all_steps():
    """The published code multiplies weights by `num_transitions`, which it counts before it filters."""
    moving = FakeSource("moving", (10, 10))
    idle = FakeSource("idle", (10, 10, 10, 10), mute=frozenset({3}), no_ops=frozenset(range(5)))
    ours = TrainingMixture.open([moving, idle], [1.0, 0.5])
    published = TrainingMixture.open([moving, idle], [1.0, 0.5], shares="published")
    drawn = [mixture.training(np.arange(len(mixture.training))) for mixture in (ours, published)]
    assert [np.bincount(draws.source).tolist() for draws in drawn] == [[20, 8], [20, 20]]
    # The samples are the same, only drawn more often.
    assert {tuple(map(int, pair)) for pair in zip(drawn[1].episode, drawn[1].start, strict=True)} >= {
        (episode, start) for episode in range(3) for start in range(5)
    }
    assert drawn[1].episode[drawn[1].source == 1].max() == 2
    # Held-out episodes count nowhere.
    half = TrainingMixture.open([moving, idle], [1.0, 0.5], held_out=0.5, shares="published")
    kept = int((~half.held_out[1]).sum())
    assert half.training.draws.tolist() == [10, 0.5 * 10 * kept]


def test_episodes_that_say_nothing_are_left_out_or_given_words():
    source = FakeSource("some", (3, 3, 3), mute=frozenset({1}))
    assert np.unique(TrainingMixture.open([source]).training(np.arange(6)).episode).tolist() == [0, 2]
    told = TrainingMixture.open([source], missing_instruction="do it")
    assert len(told.training) == 9


def test_one_grid_for_all_counts_each_dataset_as_it_is_drawn():
    rng = np.random.default_rng(0)

    class Walk(FakeSource):
        def episode(self, index):
            episode = super().episode(index)
            scale = 1.0 if self.key == "wide" else 0.05
            episode.actions[:, :6] = np.clip(scale * rng.standard_normal((len(episode.actions), 6)), -1, 1)
            episode.actions[0, :6], episode.actions[1, :6] = -1, 1  # the same range for both
            return episode

    sources = [Walk("wide", (60,) * 5), Walk("narrow", (60,) * 5)]
    grids = [TrainingMixture.open(sources, weights).fit_grid(BINS) for weights in ([1, 0], [1, 1], [0, 1])]
    inner = [np.abs(grid.edges["roll"][1]) for grid in grids]
    assert inner[0] > inner[1] > inner[2]
    left_out = TrainingMixture.open(sources, [1, 1]).fit_grid(BINS, exclude={"wide"})
    assert isinstance(left_out, ActionGrid)
    np.testing.assert_allclose(left_out.edges["roll"], grids[2].edges["roll"], atol=0.02)
    assert set(TrainingMixture.open(sources).statistics()) == {"wide", "narrow"}


def test_the_grid_of_one_dataset_is_that_of_all_its_actions_once():
    rng = np.random.default_rng(0)
    walks = [np.concatenate([rng.normal(0, 0.3, (30, 6)), rng.integers(0, 2, (30, 1))], 1) for _ in range(9)]

    class Walk(FakeSource):
        def episode(self, index):
            return replace(super().episode(index), actions=walks[index])

    mixture = TrainingMixture.open([Walk("walk", (30,) * 9)], [0.5], held_out=0.2)
    actions = np.concatenate(walks)
    expected = ActionGrid.fit(ActionStatistics.from_actions(actions).normalize(actions), 0.1, BINS)
    for name, edges in mixture.fit_grid(BINS, 0.1).edges.items():
        np.testing.assert_allclose(edges, expected.edges[name], atol=1e-9)


def test_all_tasks_give_about_the_same_share_of_what_is_held_out():
    class Tasks(FakeSource):
        def episode(self, index):
            return replace(super().episode(index), instruction=f"task {index % 4}")

    source = Tasks("tasks", (5,) * 40)
    for seed in range(5):
        (held_out,) = TrainingMixture.open([source], held_out=0.1, seed=seed).held_out
        assert sorted(np.flatnonzero(held_out) % 4) == [0, 1, 2, 3]
    one, other = (TrainingMixture.open([source], held_out=0.1, seed=seed).held_out[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_what_is_of_one_origin_keeps_the_same_episodes_from_training():
    lengths = (5,) * 10
    front, any_view = FakeSource("front", lengths), FakeSource("any", tuple(np.repeat(lengths, 3)))
    shorter = FakeSource("shorter", (0, *lengths[1:]))
    sources = [front, any_view, shorter, FakeSource("other", lengths)]
    views, origins = [1, 3, 1, 1], ["front", "front", "front", "other"]
    for seed in range(5):
        mixture = TrainingMixture.open(sources, held_out=0.3, seed=seed, views=views, origins=origins)
        expected = TrainingMixture.open([front], held_out=0.3, seed=seed).held_out[0]
        one, through_any, without_first, other = mixture.held_out
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_array_equal(through_any, expected.repeat(3))
        np.testing.assert_array_equal(without_first, expected)
        assert not np.array_equal(other, expected)


def test_cameras_and_instructions_are_the_datasets_own():
    mixture = TrainingMixture.open([ONE, FakeSource("blind", (3,), camera=None)])
    assert mixture.cameras() == {"one": CAMERA}
    assert mixture.instructions() == sorted({f"move {index}" for index in range(20)})
    first, second = mixture.contents
    again = TrainingMixture.open([FakeSource("blind", (4,), camera=None), ONE], [1, 2]).contents
    assert again[1] == first
    assert again[0] != second


def test_what_cannot_be_trained_on():
    with pytest.raises(InputError, match="one twice"):
        TrainingMixture.open([ONE, ONE])
    with pytest.raises(InputError, match="fraction"):
        TrainingMixture.open([ONE], held_out=1.0)
    mute = FakeSource("mute", (3, 3), mute=frozenset({0, 1}))
    with pytest.raises(InputError, match="mute has no samples: of 2 episodes 0 are damaged and 2 have no"):
        TrainingMixture.open([mute])
    with pytest.raises(InputError, match="No dataset is left"):
        TrainingMixture.open([ONE]).fit_grid(BINS, exclude={"one"})


def refuse(*texts):
    def check(text):
        if text in texts:
            raise InputError(f"{text!r} cannot be said.")

    return check


def test_instructions_that_cannot_be_used_are_found_before_the_run():
    mixture = TrainingMixture.open([ONE, FakeSource("three", (3, 3, 3, 3))], held_out=0.3, seed=1)
    assert (
        mixture.checked(refuse("something else")).training.draws.tolist() == mixture.training.draws.tolist()
    )
    with pytest.raises(
        InputError, match=r"^one episode 7: 'move 7' cannot be said\. 1 episodes cannot be used"
    ):
        mixture.checked(refuse("move 7"))
    usable = mixture.checked(refuse("move 7", "move 2"), on_bad="skip")
    draws = usable.training(np.arange(3 * len(usable.training)))
    drawn = {(int(s), int(e)) for s, e in zip(draws.source, draws.episode, strict=True)}
    assert not drawn & {(0, 7), (0, 2), (1, 2)}
    np.testing.assert_array_equal(usable.held_out[0], mixture.held_out[0])
    assert usable.left_out == (
        "2 of 20 episodes of one are left out: one episode 2: 'move 2' cannot be said.; "
        "one episode 7: 'move 7' cannot be said.",
        "1 of 4 episodes of three are left out: three episode 2: 'move 2' cannot be said.",
    )
    assert mixture.left_out == ()
    with pytest.raises(InputError, match="three has no samples left: three episode 0"):
        mixture.checked(refuse(*(f"move {number}" for number in range(4))), on_bad="skip")


def test_what_stands_for_a_missing_instruction_is_checked_too():
    mixture = TrainingMixture.open(
        [FakeSource("mute", (3,), mute=frozenset({0}))], missing_instruction="do it"
    )
    with pytest.raises(InputError, match="do it"):
        mixture.checked(refuse("do it"), on_bad="skip")


def test_every_instruction_of_an_episode_is_checked(tmp_path):
    class Changing(FakeSource):
        def episode(self, index):
            episode = super().episode(index)
            episode.instruction_at = lambda step: "late" if index == 2 and step == 3 else f"move {index}"
            return episode

    source = Changing("changing", (4, 4, 4))
    for _ in range(2):  # made, and taken from the cache
        mixture = TrainingMixture.open([source], cache=tmp_path)
        (found,) = mixture.surveys
        assert found.instructions == ("move 0", "move 1", "move 2", "late")
        assert found.said.tolist() == [[0, 0], [1, 1], [2, 2], [2, 3]]
        with pytest.raises(InputError, match="changing episode 2: 'late'"):
            mixture.checked(refuse("late"))
