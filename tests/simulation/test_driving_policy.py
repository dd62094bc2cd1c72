"""A policy that drives while demonstrations are recorded says its actions as the simulator's controller takes them."""

from dataclasses import replace

import numpy as np
import pytest

from spatialvla.actions.units import BRIDGE, LIBERO, UNKNOWN
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.processor import Processor
from spatialvla.simulation.libero.arm_state import is_of_libero
from spatialvla.simulation.libero.demonstration import _observation, demonstrate
from spatialvla.simulation.libero.env import SETTLING_ACTION, LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.tasks import tasks
from spatialvla.simulation.libero.viewpoints import WRIST_CAMERA, Viewpoint
from spatialvla.simulation.recorders import record_demonstrations
from spatialvla.simulation.recording import recorder as recording
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.simulation.recording.demonstration import STATE_NAMES
from spatialvla.types import ActionChunk


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Begins a recording with nano, of which something else is said; gives what the recorder was asked for."""
    nano = Processor.from_pretrained("nano")

    def run(units, **options):
        processor = replace(nano, units={"libero_spatial": units})
        monkeypatch.setattr(recording.Processor, "from_pretrained", lambda name: processor)
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


def test_a_policy_drives_only_where_all_its_cameras_are_recorded(tmp_path):
    config = RecordingConfig(tmp_path, policy="nano-wrist")
    with pytest.raises(InputError, match="nano-wrist looks through wrist, too"):
        recording.check_policy(config, LIBERO, "LIBERO's controller")
    recording.check_policy(replace(config, wrist=True), LIBERO, "LIBERO's controller", is_of_libero)
    with pytest.raises(
        InputError, match=r"takes a state of the arm \(.*\) that libero_spatial does not have"
    ):
        recording.check_policy(replace(config, wrist=True), LIBERO, "LIBERO's controller")


class Watching:
    """A policy that stands still and keeps what it is shown."""

    camera_names = ("image", "wrist")

    def __init__(self, state_names):
        self.state_names, self.seen = state_names, []

    def predict(self, observations):
        self.seen += observations
        return [ActionChunk(np.tile(SETTLING_ACTION, (4, 1)), np.zeros((4, 3), np.int64))]


@pytest.mark.sim
def test_a_policy_at_the_wheel_sees_what_is_recorded():
    pytest.importorskip("libero")
    env = LiberoEnv(tasks("libero_spatial")[2], image_size=64, rendering="fast")
    policy, others = Watching(STATE_NAMES), [Viewpoint("wrist", WRIST_CAMERA)]
    recorded = demonstrate(
        env, LiberoExpert(env), np.random.default_rng(0), disturbed=False, policy=policy, others=others
    )
    env.close()
    first = int(np.flatnonzero(recorded.takeover)[0])
    seen, wrist = policy.seen[0], recorded.others["wrist"]
    np.testing.assert_array_equal(seen.image, recorded.images[first])
    np.testing.assert_array_equal(seen.images["wrist"].image, wrist.images[first])
    np.testing.assert_allclose(
        mirror_extrinsics(seen.images["wrist"].extrinsics), wrist.extrinsics[first], atol=1e-6
    )
    np.testing.assert_allclose(seen.state, recorded.proprioception[first], atol=1e-6)


class Told:
    """An environment that tells which state it was asked for."""

    def __getattr__(self, name):
        return None

    @property
    def task(self):
        return tasks("libero_spatial")[2]

    def proprioception(self, *, published=False):
        return np.full(8, 1.0 if published else 0.0)


CONVERTED = ("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper")


@pytest.mark.parametrize(
    ("names", "given"),
    [(STATE_NAMES, 0), (CONVERTED, 1), (tuple("abcdefgh"), 1), ((), None)],
)
def test_a_policy_at_the_wheel_is_told_the_state_that_it_learned(names, given):
    pytest.importorskip("libero")
    seen = _observation(Told(), lambda: np.zeros((4, 4, 3), np.uint8), Watching(names), [])
    assert (seen.state if given is None else seen.state[0]) == given
