"""One set of statistics for several datasets: as if they were one."""

from dataclasses import replace

import numpy as np
import pytest
from fake_source import FakeSource

from spatialvla.actions.units import LIBERO
from spatialvla.data.pooled_statistics import pooled_statistics
from spatialvla.data.survey import survey
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import InputError

ONE, TWO = FakeSource("one", (10,) * 20), FakeSource("two", (4, 6) * 25)


def named(source, *names):
    return replace(source, state_names=names)


def test_each_step_counts_once():
    found = pooled_statistics([named(ONE, "x", "y"), named(TWO, "x", "y")])
    rows = [source.episode(e).actions for source in (ONE, TWO) for e in range(len(source))]
    actions = np.concatenate(rows)
    low, high = np.quantile(actions, [0.01, 0.99], axis=0)
    assert high[1] > len(ONE)  # the second has more episodes
    np.testing.assert_allclose(found.actions.q01, low)
    np.testing.assert_allclose(found.actions.q99, high)
    np.testing.assert_allclose(found.actions.mean, actions.mean(0))
    np.testing.assert_allclose(found.actions.std, actions.std(0))
    assert (found.actions.num_trajectories, found.actions.num_transitions) == (70, 200 + 250)
    assert found.states is not None
    np.testing.assert_allclose(found.states.q99, high[:2])


def test_a_dataset_without_states_adds_none():
    assert pooled_statistics([ONE, TWO]).states is None
    found, alone = pooled_statistics([ONE, named(TWO, "x")]).states, survey(named(TWO, "x")).states
    assert found is not None
    assert alone is not None
    np.testing.assert_array_equal(found.q99, alone.statistics().q99)


def test_what_does_not_belong_together_is_refused():
    meters = replace(LIBERO, meters=1.0)
    with pytest.raises(InputError, match=r"actions of one and two are not the same motions \(.*meters"):
        pooled_statistics([replace(ONE, units=LIBERO), replace(TWO, units=meters)])
    silent = replace(ONE, key="silent")  # which contradicts neither
    with pytest.raises(InputError, match="actions of one and two are not the same motions"):
        pooled_statistics([silent, replace(ONE, units=LIBERO), replace(TWO, units=meters)])
    with pytest.raises(InputError, match=r"states of one \(x, y\) and two \(y, x\) are not the same numbers"):
        pooled_statistics([named(ONE, "x", "y"), named(TWO, "y", "x")])


def test_given_states_of_as_many_numbers_take_the_place_of_the_datasets_own():
    sources = [named(ONE, "x", "y"), named(TWO, "x", "y")]
    pooled = pooled_statistics(sources)
    mixture = replace(
        TrainingMixture.open(sources), given_statistics={"one": pooled, "two": pooled_statistics([TWO])}
    )
    found, own = mixture.state_statistics(), TrainingMixture.open(sources).state_statistics()
    assert pooled.states is not None
    np.testing.assert_array_equal(found["one"].q99, pooled.states.q99)
    assert found["one"].q99[1] != own["one"].q99[1]
    np.testing.assert_array_equal(found["two"].q99, own["two"].q99)
    fewer = replace(mixture, given_statistics={"one": pooled_statistics([named(ONE, "x")])})
    np.testing.assert_array_equal(fewer.state_statistics()["one"].q99, own["one"].q99)
