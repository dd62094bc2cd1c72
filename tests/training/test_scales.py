"""What a run says of statistics that do not fit its datasets, or are not those that its policy learned by."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from fake_source import FakeSource

from spatialvla import Processor
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics_file import DatasetStatistics
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.training.loop import train
from spatialvla.training.start.scales import are_one, misfits

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
