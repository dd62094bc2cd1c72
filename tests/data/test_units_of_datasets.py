"""What 1 in a dataset's actions is: from its own file, its mapping or its spec, and into what is trained on it."""

from dataclasses import replace

import numpy as np
import pytest
from fake_source import FakeSource

from spatialvla.actions.units import LIBERO, UNKNOWN, ActionUnits
from spatialvla.data.convert import convert
from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.oxe.specs import SPECS
from spatialvla.errors import CheckpointError, InputError

IN_METERS = ActionUnits(1.0, 1.0, "euler", "base", (0.0, 1.0), 10.0)


def write(root, units=UNKNOWN, action="action"):
    writer = LeRobotWriter(
        root,
        10,
        [Feature("observation.images.top", "image", (16, 16, 3)), Feature(action, "float64", (7,))],
        units=units,
    )
    images = np.zeros((4, 16, 16, 3), np.uint8)
    writer.add_episode({"observation.images.top": images, action: np.full((4, 7), 0.5)}, "pick it up")
    writer.finalize()
    return root


def units_of(root, **content):
    return LeRobotSource(root, FeatureMapping.from_dict(content)).units


def test_a_dataset_of_deltas_says_nothing_of_its_units_but_its_rate(tmp_path):
    assert units_of(write(tmp_path / "d")) == ActionUnits(control_hz=10.0)


def test_a_mapping_states_what_the_dataset_does_not(tmp_path):
    root = write(tmp_path / "d")
    stated = {"meters": 0.02, "radians": 0.1, "rotation": "rotation_vector", "frame": "gripper"}
    expected = ActionUnits(0.02, 0.1, "rotation_vector", "gripper", (0.0, 1.0), 10.0)
    assert units_of(root, units={**stated, "gripper": [0, 1]}) == expected
    assert units_of(root, units=stated, gripper={"open": 1}) == expected
    # Stated units describe the numbers, they do not change them.
    source = LeRobotSource(root, FeatureMapping.from_dict({"units": stated}))
    assert source.episode(0).actions[0, 0] == 0.5


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"meters": 0.001, "radians": 0.5}, ActionUnits(1.0, 1.0, None, None)),
        ({"meters": 0.001, "rotation": "axis_angle"}, ActionUnits(1.0, None, "euler", None)),
        ({"rotation": "axis_angle", "radians": 0.5}, ActionUnits(None, 1.0, "euler", None)),
        ({"convention": "absolute", "meters": 1.0}, ActionUnits(1.0, 1.0, "euler", "base")),
        ({"convention": "absolute", "frame": "tool"}, ActionUnits(None, 1.0, "euler", "gripper")),
        ({"rotation": "none", "indices": [0, 1, 2, 6]}, ActionUnits(None, 1.0, "euler", None)),
    ],
)
def test_what_a_mapping_makes_it_knows(tmp_path, action, expected):
    assert units_of(write(tmp_path / "d"), action=action) == replace(expected, control_hz=10.0)


def test_a_dataset_keeps_its_units_beside_itself(tmp_path):
    root = write(tmp_path / "d", LIBERO)
    assert units_of(root) == replace(LIBERO, control_hz=10.0)
    in_meters = {"meters": 0.05, "radians": 0.5, "rotation": "axis_angle"}
    assert units_of(root, action=in_meters) == IN_METERS
    assert units_of(write(tmp_path / "e", LIBERO, "other"), action={"feature": "other"}).meters is None


def test_units_that_contradict_each_other_are_refused(tmp_path):
    root = write(tmp_path / "d", LIBERO)
    with pytest.raises(InputError, match=r"'units': meters a unit 0\.05, not 1; correct one"):
        units_of(root, units={"meters": 1})
    with pytest.raises(InputError, match=r"meters a unit 1, not 0\.001"):
        units_of(write(tmp_path / "e"), action={"meters": 0.001}, units={"meters": 0.001})
    with pytest.raises(InputError, match="control rate in Hz 10, not 20"):
        units_of(root, units={"control_hz": 20})
    with pytest.raises(InputError, match="frame is 'world'"):
        FeatureMapping.from_dict({"units": {"frame": "world"}})
    (root / "meta" / "action_units.json").write_text('{"meters": "wide"}')
    with pytest.raises(CheckpointError, match=r"action_units\.json: .*units of actions"):
        units_of(root)


def test_converting_and_caching_carry_the_units(tmp_path):
    source = FakeSource("made", (3, 4), units=replace(IN_METERS, frame="gripper", control_hz=5.0))
    convert(source, tmp_path / "converted")
    assert LeRobotSource(tmp_path / "converted").units == source.units
    assert CachedSource(source, 8, tmp_path / "cache").units == source.units
    unknown = FakeSource("unknown", (3,))
    convert(unknown, tmp_path / "unknown")
    assert LeRobotSource(tmp_path / "unknown").units == ActionUnits(control_hz=5.0)


def test_specs_have_the_published_units_and_rates():
    from spatialvla.actions.published_units import PUBLISHED_UNITS

    for name, spec in SPECS.items():
        units = PUBLISHED_UNITS.get(name, UNKNOWN)
        assert units.control_hz in (None, spec.control_hz)
    assert PUBLISHED_UNITS["droid"].meters == 0.075
