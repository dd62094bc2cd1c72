"""A policy that drives while demonstrations are recorded says its actions as the simulator's controller takes them."""

from dataclasses import replace

import pytest

from spatialvla import Policy
from spatialvla.actions.units import BRIDGE, LIBERO, UNKNOWN
from spatialvla.errors import InputError
from spatialvla.simulation.recorders import record_demonstrations
from spatialvla.simulation.recording import recorder as recording
from spatialvla.simulation.recording.config import RecordingConfig


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Begins a recording with nano, of which something else is said; gives what the recorder was asked for."""
    nano = Policy.from_pretrained("nano")

    def run(units, **options):
        processor = replace(nano.processor, units={"libero_spatial": units})
        monkeypatch.setattr(
            recording.Policy, "from_pretrained", lambda name: Policy(nano.model, processor), raising=True
        )
        asked = []
        monkeypatch.setattr(recording, "record_episodes", lambda *args: asked.append(args) or [])
        monkeypatch.setattr(recording, "store", lambda *args: None)
        monkeypatch.setattr(recording.shutil, "rmtree", lambda folder: None)
        record_demonstrations(RecordingConfig(tmp_path / "out", policy="nano", **options))
        return asked

    return run


def test_a_policy_of_another_robot_does_not_drive(record):
    with pytest.raises(InputError, match=r"LIBERO's controller takes other .* meters a unit 1, not 0\.05"):
        record(replace(LIBERO, meters=1.0))
    with pytest.raises(InputError, match="gripper closed and open 1 and 0"):
        record(replace(LIBERO, gripper=(1.0, 0.0)), unknown_units=True)


def test_unknown_units_drive_only_where_that_is_asked_for(record):
    with pytest.raises(InputError, match="say --unknown-units"):
        record(UNKNOWN)
    assert len(record(UNKNOWN, unknown_units=True)) == 1
    assert len(record(LIBERO)) == 1


def test_each_suite_has_its_own_units(record):
    assert len(record(BRIDGE, suite="simpler_widowx")) == 1
    with pytest.raises(InputError, match="the WidowX's controller takes other actions"):
        record(LIBERO, suite="simpler_widowx")
