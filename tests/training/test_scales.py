"""What a run says of statistics that do not fit its datasets, or are not those that its policy learned by."""

import json
import logging
from dataclasses import dataclass, replace

import numpy as np
import pytest
from fake_source import FakeSource

from spatialvla import Processor
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics_file import DatasetStatistics
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.training.loop import train
from spatialvla.training.start.scales import are_one, meant_for, misfits, warn_of_other_scales

# A step's number, and its episode's, are both its action's and its state's.
ARM = FakeSource("arm", (10,) * 20, state_names=("step", "episode"))


def given(mixture, **statistics):
    return replace(mixture, given_statistics=statistics)


@pytest.fixture
def mixture():
    return TrainingMixture.open([ARM])


@pytest.fixture
def own(mixture):
    return DatasetStatistics(mixture.statistics()["arm"], mixture.state_statistics()["arm"])


def test_statistics_that_fit_are_not_mentioned(mixture, own):
    assert misfits(mixture) == []
    assert misfits(given(mixture, arm=own)) == []
    assert misfits(given(mixture, arm=DatasetStatistics(own.actions))) == []


def test_states_that_the_given_statistics_clip_are_told(mixture, own):
    """Those of another room, where the arm stands elsewhere."""
    low = StateStatistics(own.states.q01, np.array([own.states.q99[0], 13.5]))
    (sentence,) = misfits(given(mixture, arm=DatasetStatistics(own.actions, low)))
    assert "given for arm clip 30% of its states in episode;" in sentence  # 14 to 19 of 20
    high = StateStatistics(own.states.q01, np.array([own.states.q99[0], 16.5]))
    assert misfits(given(mixture, arm=DatasetStatistics(own.actions, high))) == []  # 17 to 19 of 20


def test_statistics_of_other_states_are_told(mixture, own):
    other = StateStatistics(np.zeros(3), np.ones(3))
    (sentence,) = misfits(given(mixture, arm=DatasetStatistics(own.actions, other)))
    assert sentence == (
        "The statistics given for arm are of 3 numbers of a state, and it has 2; its own are taken."
    )


def test_actions_that_the_given_statistics_clip_are_told_but_for_what_is_not_scaled(mixture, own):
    q99 = np.array([4.5, *own.actions.q99[1:]])
    (sentence,) = misfits(given(mixture, arm=DatasetStatistics(replace(own.actions, q99=q99), own.states)))
    assert "given for arm clip 50% of its actions in x;" in sentence
    free = replace(own.actions, q99=q99, mask=np.array([False, *own.actions.mask[1:]]))
    assert misfits(given(mixture, arm=DatasetStatistics(free, own.states))) == []


def test_datasets_are_one_where_states_are_scaled_alike_too(own):
    """A policy that sees no state does not mind."""
    two = TrainingMixture.open([ARM, replace(ARM, key="other")])
    moved = DatasetStatistics(own.actions, StateStatistics(own.states.q01 + 0.1, own.states.q99))
    assert are_one(given(two, arm=own, other=own), True)
    assert not are_one(given(two, arm=own, other=moved), True)
    assert are_one(given(two, arm=own, other=moved), False)


def test_an_unscaled_gripper_makes_no_difference(own):
    two = TrainingMixture.open([ARM, replace(ARM, key="other")])
    q99 = np.array([*own.actions.q99[:6], 0.9])
    softer = DatasetStatistics(replace(own.actions, q99=q99), own.states)
    assert are_one(given(two, arm=own, other=softer), True)


def test_noise_about_what_stands_still_is_not_clipped(own):
    """Normalization makes 0 of it, as of that which the statistics are of."""

    @dataclass
    class Noisy(FakeSource):
        def episode(self, index):
            episode = super().episode(index)
            episode.actions[:, 3] = np.where(np.arange(len(episode.actions)) % 2, 1e-12, -1e-12)
            return episode

    noisy = TrainingMixture.open([Noisy(**vars(ARM))])
    assert misfits(given(noisy, arm=own)) == []


def test_states_are_told_by_the_names_of_their_own_dataset(mixture, own):
    other = replace(ARM, key="other", state_names=("knee", "hip"))
    low = StateStatistics(own.states.q01, np.array([own.states.q99[0], 13.5]))
    two = given(TrainingMixture.open([ARM, other]), arm=own, other=DatasetStatistics(own.actions, low))
    (sentence,) = misfits(two)
    assert "given for other clip 30% of its states in hip;" in sentence


def test_a_policy_with_a_state_is_meant_for_a_dataset_that_has_one(own):
    mixture = given(TrainingMixture.open([replace(ARM, key="bare", state_names=()), ARM]), bare=own, arm=own)
    assert meant_for(mixture, True) == "arm"
    assert meant_for(mixture, False) == "bare"
    moved = DatasetStatistics(replace(own.actions, q99=own.actions.q99 + 1), own.states)
    assert meant_for(given(mixture, bare=own, arm=moved), True) is None


@dataclass(frozen=True)
class Known:
    """What a policy knows."""

    statistics: dict
    state_statistics: dict


def test_only_statistics_that_mean_something_else_are_told(mixture, own, tmp_path, caplog):
    def said(statistics, mixture=mixture):
        caplog.clear()
        known = Known({"arm": statistics.actions}, {"arm": statistics.states})
        with caplog.at_level(logging.WARNING):
            warn_of_other_scales(tmp_path, known, mixture)
        return [record.getMessage() for record in caplog.records]

    def shifted(by):
        return replace(own.actions, q01=own.actions.q01 + by * np.eye(7)[0], stored=None)

    span = own.actions.q99[0] - own.actions.q01[0]
    assert said(own) == said(DatasetStatistics(shifted(0.009 * span), own.states)) == []
    gripper = replace(own.actions, q99=np.array([*own.actions.q99[:6], 2.0]))
    assert said(DatasetStatistics(gripper, own.states)) == []
    far = DatasetStatistics(shifted(0.011 * span), own.states)
    (sentence,) = said(far)
    assert sentence.endswith(f"give --statistics {tmp_path / 'processor_config.json'}.")
    more = TrainingMixture.open([ARM, replace(ARM, key="new")])
    (sentence,) = said(far, more)
    assert sentence.endswith(f"--statistics a file that has those of {tmp_path / 'processor_config.json'}.")
    (sentence,) = said(DatasetStatistics(own.actions, StateStatistics(np.zeros(1), np.ones(1))))
    assert "learned the states of arm by other statistics" in sentence


def test_going_on_by_other_statistics_is_told(make, start, dataset, tmp_path, caplog):
    known = Processor.from_pretrained(start).statistics["squares"].to_json()
    wide = {name: (2 * np.array(known["action"][name])).tolist() for name in ("q01", "q99")}

    def said(name, entry):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"squares": entry}))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            train(make(datasets=[dataset], statistics=file, steps=1, out=tmp_path / name), device="cpu")
        return [text for record in caplog.records if "other statistics" in (text := record.getMessage())]

    assert said("same", known) == []
    (sentence,) = said("wide", {**known, "action": {**known["action"], **wide}})
    assert "learned the actions of squares by other statistics" in sentence
    assert sentence.endswith(f"give --statistics {start / 'processor_config.json'}.")
