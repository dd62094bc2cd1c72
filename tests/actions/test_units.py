"""Units of actions: what is published is known, what a checkpoint says travels with it, the rest is unknown."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spatialvla import Processor
from spatialvla.actions.units import LIBERO, UNKNOWN, ActionUnits, published_units
from spatialvla.errors import CheckpointError, InputError

CHECKPOINT = Path(__file__).parent.parent / "goldens" / "reference" / "checkpoint"
MINE = ActionUnits(0.02, 0.1, "euler", "gripper", (0.0, 1.0), 10.0)


def test_nano_counts_in_units_of_liberos_controller():
    assert Processor.from_pretrained("nano").action_units("libero_spatial") == LIBERO
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


@pytest.mark.parametrize("entry", [{"meters": -1}, {"meters": "wide"}, {"speed": 1}, {"gripper": 1}, 5])
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
