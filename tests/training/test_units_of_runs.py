"""A checkpoint states its datasets' units: written by training, kept by fine-tuning, adapters and exports."""

from dataclasses import replace

import pytest

from spatialvla import Processor
from spatialvla.actions.units import LIBERO, UNKNOWN, ActionUnits
from spatialvla.training.checkpoints.export import export
from spatialvla.training.config import DatasetConfig
from spatialvla.training.loop import train

MAPPING = "units: {meters: 0.05, radians: 0.5, rotation: rotation_vector, frame: base, gripper: [0, 1]}"
UNSAID = ActionUnits(control_hz=20.0)


@pytest.fixture
def trained(make_config, dataset, tmp_path):
    """A run from nothing on a dataset whose mapping says its units."""
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(MAPPING)
    return train(
        make_config(datasets=(DatasetConfig(str(dataset), mapping=str(mapping)),), steps=1), device="cpu"
    )


def test_training_writes_what_the_mapping_says(trained):
    assert Processor.from_pretrained(trained.model).units == {"squares": LIBERO}


@pytest.mark.parametrize("mode", ["full", "lora", "adapt"])
def test_fine_tuning_keeps_the_old_units_and_adds_the_new(trained, make_config, tmp_path, mode):
    config = make_config(out=tmp_path / "more", policy=str(trained.model), key="mine", steps=1, mode=mode)
    model = train(config, device="cpu").model
    assert Processor.from_pretrained(model).units == {"squares": LIBERO, "mine": UNSAID}
    export(config.out, tmp_path / "whole", merge=mode == "lora")
    whole = Processor.from_pretrained(tmp_path / "whole")
    assert whole.action_units("squares") == LIBERO
    assert whole.action_units("mine") == UNSAID


def test_new_statistics_under_an_old_key_have_the_new_datasets_units(trained, make_config, tmp_path):
    config = make_config(out=tmp_path / "more", policy=str(trained.model), steps=1)
    assert Processor.from_pretrained(train(config, device="cpu").model).units == {"squares": UNSAID}


def test_an_unknown_dataset_under_a_published_key_stays_unknown(make_config):
    model = train(make_config(key="bridge_orig/1.0.0", steps=1), device="cpu").model
    processor = Processor.from_pretrained(model)
    assert processor.action_units("bridge_orig/1.0.0") == UNSAID
    assert replace(UNSAID, control_hz=None) == UNKNOWN
