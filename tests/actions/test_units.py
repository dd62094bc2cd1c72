"""Units of actions: what is published is known, what a checkpoint says travels with it, the rest is unknown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spatialvla import Processor
from spatialvla.actions.published_units import PUBLISHED_UNITS, published_units
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.units import LIBERO, UNKNOWN, ActionUnits
from spatialvla.errors import CheckpointError, InputError

CHECKPOINT = Path(__file__).parent.parent / "goldens" / "reference" / "checkpoint"
PUBLISHED = Path(__file__).parent.parent / "goldens" / "published"
MINE = ActionUnits(0.02, 0.1, "euler", "gripper", (0.0, 1.0), 10.0)


def test_nano_states_the_units_of_liberos_controller():
    nano = Processor.from_pretrained("nano")
    assert set(nano.units) == set(nano.statistics)
    assert all(units == LIBERO for units in nano.units.values())
    assert nano.action_units("libero_spatial") == LIBERO
    assert (LIBERO.meters, LIBERO.radians) == (0.05, 0.5)


def test_of_published_files_only_published_datasets_are_known():
    processor = Processor.from_pretrained(CHECKPOINT)
    assert processor.action_units("bridge_orig/1.0.0").meters == 1
    assert processor.action_units("tiny_robot/0.1.0") == UNKNOWN
    assert not UNKNOWN.known
    assert published_units(None) == UNKNOWN
    assert "action_units" not in processor.to_json()


def test_units_travel_with_the_checkpoint(tmp_path):
    processor = replace(Processor.from_pretrained(CHECKPOINT), units={"tiny_robot/0.1.0": MINE})
    processor.save_pretrained(tmp_path)
    again = Processor.from_pretrained(tmp_path)
    assert again.action_units("tiny_robot/0.1.0") == MINE
    assert again.action_units("bridge_orig/1.0.0").meters == 1
    assert again.to_json() == processor.to_json()


def test_a_checkpoint_that_does_not_know_says_so_over_the_table(tmp_path):
    processor = replace(Processor.from_pretrained(CHECKPOINT), units={"bridge_orig/1.0.0": UNKNOWN})
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    stored = json.loads(file.read_text())
    assert stored["action_units"]["bridge_orig/1.0.0"]["meters"] is None
    assert Processor.from_pretrained(tmp_path).action_units("bridge_orig/1.0.0") == UNKNOWN
    file.write_text(json.dumps({**stored, "action_units": {"bridge_orig/1.0.0": None}}))
    (tmp_path / "SHA256SUMS").unlink()
    assert Processor.from_pretrained(tmp_path).action_units("bridge_orig/1.0.0") == UNKNOWN


def test_a_name_that_contains_a_published_one_is_not_known():
    assert published_units("bridge_orig") == published_units("bridge_orig/1.0.0") != UNKNOWN
    assert published_units("my_bridge_orig") == published_units("not_libero_spatial") == UNKNOWN


def test_published_steps_are_as_long_as_an_arm_moves():
    """The table against the published statistics, which nobody made from it."""
    stored = json.loads((PUBLISHED / "processor_config.json").read_text())["statistics"]
    statistics = {key: ActionStatistics.from_json(entry) for key, entry in stored.items()}
    known = {key: published_units(key) for key in statistics if published_units(key) != UNKNOWN}
    assert {key.split("/")[0] for key in known} == {"fractal20220817_data", "kuka", "bridge_orig", "droid"}
    for key, units in known.items():
        reached = np.maximum(np.abs(statistics[key].q01), np.abs(statistics[key].q99))
        assert units.meters * reached[:3].max() < 0.25
        assert units.radians * reached[3:6].max() < 1
        assert units.known
    assert PUBLISHED_UNITS["libero_10_no_noops"] == LIBERO


def test_units_that_differ_are_named_and_unknown_ones_are_no_difference():
    assert MINE.differences(MINE) == MINE.differences(UNKNOWN) == UNKNOWN.differences(MINE) == ()
    assert MINE.differences(LIBERO) == (
        "meters a unit 0.02, not 0.05",
        "radians a unit 0.1, not 0.5",
        "rotation euler, not rotation_vector",
        "frame gripper, not base",
        "control rate in Hz 10, not 20",
    )
    assert replace(MINE, gripper=(-1.0, 1.0)).differences(MINE) == (
        "gripper closed and open -1 and 1, not 0 and 1",
    )
    assert replace(MINE, frame=None).unknown == ("frame",)
    assert replace(MINE, frame=None).filled(MINE) == MINE


WRONG = [
    {"meters": -1},
    {"meters": "wide"},
    {"meters": True},
    {"speed": 1},
    {"gripper": 1},
    {"gripper": [0, 0]},
    {"gripper": [0, 1, 2]},
    {"gripper": [0, float("nan")]},
    {"rotation": "axis_angle"},
    {"frame": "camera"},
    {"frame": ["base"]},
    5,
]


@pytest.mark.parametrize("entry", WRONG)
def test_units_that_cannot_be_are_refused(tmp_path, entry):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    file = folder / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "action_units": {"tiny_robot/0.1.0": entry}}))
    with pytest.raises(CheckpointError, match="units of actions"):
        Processor.from_pretrained(folder)


@pytest.mark.parametrize("number", [0, -1, np.nan, np.inf])
def test_a_unit_is_positive_and_finite(number):
    with pytest.raises(InputError, match="positive and finite"):
        ActionUnits(meters=number)
