import numpy as np
from fake_source import FakeSource
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.data.every_view import EveryView
from spatialvla.data.training_mixture import TrainingMixture

LENGTHS = tuple(range(3, 33))


def seen(size=(60, 80), **changes):
    return FakeSource("arm", LENGTHS, size=size, **changes)


def test_each_episode_comes_once_through_each_camera():
    views = seen(), seen((30, 40), left_out=("one", "two")), seen((20, 20), left_out=("two", "three"))
    every = EveryView.of(views)
    assert len(every) == 3 * len(LENGTHS)
    for index in (0, 4, 5, 44, len(every) - 1):
        number, camera = divmod(index, 3)
        episode = every.episode(index)
        assert episode.images([1]).shape[1:3] == views[camera].size
        np.testing.assert_array_equal(episode.actions, views[camera].episode(number).actions)
    assert every.left_out == ("one", "two", "three")
    assert every.key == "arm"


def test_one_camera_is_the_dataset_itself():
    source = seen()
    assert EveryView.of([source]) is source


def test_another_camera_or_order_is_another_dataset():
    class Turned(FakeSource):
        fingerprint = "turned"

    one, other = seen(), Turned("arm", LENGTHS)
    prints = {
        EveryView.of(views).fingerprint for views in ([one], [one, other], [other, one], [one, one, other])
    }
    assert len(prints) == 4
    assert EveryView.of([one, other]).contents != EveryView.of([other, one]).contents


@given(views=st.integers(1, 4), fraction=st.floats(0.02, 0.9), seed=st.integers(0, 99))
def test_an_episode_is_held_out_through_all_cameras_or_none(views, fraction, seed):
    every = EveryView.of([seen() for _ in range(views)])
    mixture = TrainingMixture.open([every], held_out=fraction, seed=seed, views=[views])
    through = mixture.held_out[0].reshape(-1, views)
    assert (through.all(axis=1) == through.any(axis=1)).all()
    # The same ones as through one camera alone.
    alone = TrainingMixture.open([seen()], held_out=fraction, seed=seed)
    np.testing.assert_array_equal(through[:, 0], alone.held_out[0])


def test_an_episode_that_one_camera_lost_is_still_one():
    every = EveryView.of([seen(), seen(damaged=frozenset({2, 3}))])
    mixture = TrainingMixture.open([every], held_out=0.5, seed=1, on_bad="skip", views=[2])
    through = mixture.held_out[0].reshape(-1, 2)
    assert (through[:, 0] == through[:, 1]).all()
    drawn = mixture.training(np.arange(2000)).episode
    assert not {5, 7} & set(drawn.tolist())
    assert not {4, 6} - set(drawn.tolist()) - set(np.flatnonzero(mixture.held_out[0]).tolist())
