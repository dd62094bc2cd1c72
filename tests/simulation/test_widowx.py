"""SimplerEnv's WidowX tasks: a policy's actions as commands, and the real simulator."""

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import project
from spatialvla.geometry.rotations import matrices
from spatialvla.simulation.widowx import env as widowx
from spatialvla.simulation.widowx.demonstration import REST, demonstrate
from spatialvla.simulation.widowx.env import START_STATES, TASKS, WidowXEnv, command
from spatialvla.simulation.widowx.expert import WidowXExpert

STILL = np.array([0, 0, 0, 0, 0, 0, 1.0])


def intrinsic_xyz(angles: np.ndarray) -> np.ndarray:
    """Rx(a) Ry(b) Rz(c), which is how ManiSkill 3's controller reads its three numbers."""
    x, y, z = (matrices(np.diag(angles)[axis : axis + 1], "euler")[0] for axis in range(3))
    return x @ y @ z


def test_without_maniskill_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", types.ModuleType("gymnasium"))
    monkeypatch.setitem(sys.modules, "mani_skill", None)
    with pytest.raises(
        InputError, match=r"Playing SimplerEnv needs mani_skill; run pip install 'spatialvla\[simpler\]'\."
    ):
        WidowXEnv(TASKS[0])


# ---------------------------------------------------------------- conversions


@given(arrays(np.float64, 3, elements=st.floats(-1.5, 1.5)))
def test_the_controller_gets_the_rotation_that_roll_pitch_yaw_mean(angles):
    sent = command(np.array([0, 0, 0, *angles, 1]))[3:6].astype(np.float64)
    np.testing.assert_allclose(intrinsic_xyz(sent), matrices(angles[None], "euler")[0], atol=1e-6)


def test_rotations_about_one_axis_stay_as_they_are():
    for axis in range(3):
        action = np.zeros(7)
        action[3 + axis] = 0.3
        np.testing.assert_allclose(command(action)[:6], action[:6], atol=1e-7)


def test_translation_is_in_meters_and_the_gripper_is_open_above_a_half():
    for opening, sent in ((0.0, -1), (0.5, -1), (0.51, 1), (1.0, 1)):
        got = command(np.array([0.01, -0.02, 0.03, 0, 0, 0, opening]))
        np.testing.assert_allclose(got, [0.01, -0.02, 0.03, 0, 0, 0, sent], atol=1e-8)


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan), np.zeros((1, 7))])
def test_what_is_no_action_is_refused(action):
    with pytest.raises(InputError, match="7 finite numbers"):
        command(action)


class Ideal:
    """An arm that is where it was told to be, and a flat box that follows once it is held."""

    def __init__(self) -> None:
        self.tool = np.eye(4)
        self.tool[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
        self.tool[:3, 3] = 0.3, 0.0, 0.13
        self.fingers = np.full(2, 0.037)
        self.source, self.target = np.eye(4), np.eye(4)
        self.source[:3, 3], self.target[:3, 3] = (0.38, 0.1, 0.01), (0.25, -0.05, 0.002)
        self.is_holding, self.is_still = False, False

    @property
    def told(self) -> np.ndarray:
        return self.tool.copy()

    @property
    def succeeds(self) -> bool:
        return bool(np.linalg.norm((self.source - self.target)[:2, 3]) < 0.02)

    def surface(self, which: str) -> np.ndarray:
        half = np.array([0.06, 0.012, 0.01] if which == "source" else [0.05, 0.05, 0.002])
        signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
        return signs * half + (self.source if which == "source" else self.target)[:3, 3]

    def step(self, action: np.ndarray) -> None:
        self.tool[:3, 3] += action[:3]
        self.tool[:3, :3] = matrices(action[None, 3:6], "euler")[0] @ self.tool[:3, :3]
        near = np.linalg.norm(self.tool[:3, 3] - self.source[:3, 3]) < 0.02
        self.is_holding = action[6] == 0 and (self.is_holding or bool(near))
        self.fingers[:] = 0.037 if action[6] else 0.02 if self.is_holding else 0.015
        if self.is_holding:
            self.source[:3, 3] += action[:3]


def test_the_expert_speaks_the_policys_language():
    arm = Ideal()
    expert = WidowXExpert(arm)
    for _ in range(60):
        action = expert()
        assert action.shape == (7,)
        assert action[6] in {0.0, 1.0}
        assert np.linalg.norm(action[:3]) < 0.031
        assert np.abs(action[3:6]).max() < 0.16
        arm.step(action)
    np.testing.assert_allclose(arm.source[:2, 3], arm.target[:2, 3], atol=1e-3)
    assert not arm.is_holding
    assert np.abs(expert()[:6]).max() < 1e-6, "it rests above what it has set down"
    fingers = arm.tool[:3, 1]
    assert abs(fingers[1]) > 0.99, "the fingers close across the narrow side"


@pytest.mark.parametrize("when", range(4, 30, 5))
def test_the_expert_recovers_from_a_push_and_from_fingers_that_do_the_opposite(when):
    arm = Ideal()
    expert = WidowXExpert(arm)
    for step in range(60):
        action = expert()
        if when <= step < when + 3:
            action = np.array([0.02, -0.02, 0.01, 0, 0, 0.1, 1 - action[6]])
        arm.step(action)
    assert arm.succeeds
    assert not arm.is_holding


def test_fingers_that_closed_around_nothing_open_higher_up():
    arm = Ideal()
    arm.tool[:3, 3] = [*arm.source[:2, 3], 0.03]
    arm.fingers[:] = 0.015
    action = WidowXExpert(arm)()
    assert action[6] == 1
    assert action[2] > 0.01


# ------------------------------------------------------------ what is missing


def test_a_missing_folder_of_scenes_is_named(monkeypatch, tmp_path):
    mani_skill = pytest.importorskip("mani_skill", reason="needs the simpler extra")
    monkeypatch.setattr(mani_skill, "ASSET_DIR", tmp_path / "data")
    monkeypatch.setenv("MS_ASSET_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"has no tasks/bridge_v2_real2sim_dataset; set MS_ASSET_DIR \(now"):
        WidowXEnv(TASKS[0])


def test_without_mani_skill_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mani_skill", None)
    with pytest.raises(
        InputError, match=r"needs (mani_skill|gymnasium); run pip install .spatialvla\[simpler\]"
    ):
        WidowXEnv(TASKS[0])


# --------------------------------------------------------- the real simulator


def missing() -> str:
    """Why the simulator cannot run here; empty where it can."""
    try:
        widowx._mani_skill()
    except InputError as error:
        return str(error)
    if (
        not any(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"))
        and "VK_ICD_FILENAMES" not in os.environ
    ):
        return "there is no Vulkan software renderer; `make simpler` installs one"
    return ""


@pytest.fixture(scope="module")
def env():
    if why := missing():
        pytest.skip(why)
    environment = WidowXEnv(TASKS[0])
    yield environment
    environment.close()


@pytest.mark.sim
def test_start_states_are_simpler_envs_and_come_again(env):
    env.reset_to(5)
    first = env.state()
    actions = [*np.random.default_rng(0).normal(0, [0.02] * 3 + [0.1] * 3 + [1], (8, 7))]
    for action in actions:
        env.step(action)
    after = env.state()
    env.reset_to(11)
    assert not np.array_equal(env.state(), first)
    env.reset_to(5)
    assert np.array_equal(env.state(), first)
    for action in actions:
        env.step(action)
    assert np.array_equal(env.state(), after), "the same actions from the same state"
    # PutCarrotOnPlateInScene: 12 pairs of places, two orientations of each; a square of 15 cm.
    env.reset_to(0)
    world = np.stack([env.source[:2, 3], env.target[:2, 3]])
    np.testing.assert_allclose(world[0] - world[1], [0, 0.15], atol=0.003)
    assert len({tuple(_places(env, state)) for state in range(0, START_STATES, 2)}) == 12


def _places(env: WidowXEnv, state: int) -> np.ndarray:
    env.reset_to(state)
    return np.round([*env.source[:2, 3], *env.target[:2, 3]], 1)


@pytest.mark.sim
def test_an_action_moves_the_controllers_target_exactly_by_what_it_says(env):
    env.reset_to(0)
    tool, gripper = env.tool, []
    action = np.array([0.02, 0.01, -0.01, 0.1, -0.05, 0.2, 1.0])
    for _ in range(2):
        env.step(action)
    for _ in range(15):
        env.step(STILL)
    turn = matrices(action[None, 3:6], "euler")[0]
    np.testing.assert_allclose(env.tool[:3, 3], tool[:3, 3] + 2 * action[:3], atol=5e-4)
    np.testing.assert_allclose(env.tool[:3, :3], turn @ turn @ tool[:3, :3], atol=3e-3)
    for opening in (0.0, 1.0):
        for _ in range(6):
            env.step(np.array([*np.zeros(6), opening]))
        gripper.append(env._env.agent.robot.get_qpos()[0, -2:].numpy())
    np.testing.assert_allclose(gripper, [[0.015, 0.015], [0.037, 0.037]], atol=2e-4)


@pytest.mark.sim
def test_stepping_is_mani_skills_own_and_draws_what_it_draws(env):
    """`step` leaves out only the drawing, `render` puts the photograph where ManiSkill's greenscreen does."""
    import torch

    action = np.array([0.01, 0.02, -0.02, 0.05, 0.1, -0.1, 0.0])
    env.reset_to(3)
    env.step(action)
    ours, ours_success = env.state(), env.grasped
    env.reset_to(3)
    observed, *_, found = env._env.step(torch.from_numpy(command(action))[None])
    assert np.array_equal(env.state(), ours)
    assert bool(found["is_src_obj_grasped"]) == ours_success
    reference = observed["sensor_data"][widowx.CAMERA]["rgb"][0].numpy()
    assert np.array_equal(env.render(), reference)
    covered = (env.render() == env.photograph).all(axis=-1).mean()
    assert 0.7 < covered < 0.98


@pytest.mark.sim
@pytest.mark.parametrize("task", range(4))
def test_the_expert_succeeds_through_the_policys_actions(task):
    if why := missing():
        pytest.skip(why)
    environment = WidowXEnv(TASKS[task])
    environment.reset_to(2)
    assert not environment.grasped
    expert = WidowXExpert(environment)
    for _ in range(TASKS[task].time_limit):
        success = environment.step(expert())
    environment.close()
    assert success
    assert environment.grasped


@pytest.mark.sim
def test_a_demonstration_is_the_same_drawn_or_not_and_never_begins_at_a_stored_state(env):
    expert = WidowXExpert(env)
    seen = demonstrate(env, expert, np.random.default_rng([0, 0, 0]))
    assert seen is not None
    assert not seen.takeover.any()
    assert (seen.actions[-REST:, 6] == 1).all()
    stored = [env.stored_places()[state].positions for state in range(START_STATES)]
    again = demonstrate(env, expert, np.random.default_rng([0, 0, 0]), draw_every=0)
    np.testing.assert_array_equal(again.states, seen.states)
    np.testing.assert_array_equal(again.actions, seen.actions)
    env.sample_state(np.random.default_rng([0, 0, 0]))
    world = np.stack([thing.pose.p[0].numpy() for thing in env._env.objs.values()])
    assert all(np.linalg.norm((world - places)[:, :2], axis=1).max() > 0.01 for places in stored)
    env.reset_to(4)
    assert len(env.stored_places()) == START_STATES, "SimplerEnv's own places are back"


@pytest.mark.sim
def test_the_camera_sees_the_things_where_its_extrinsics_say(env):
    env.reset_to(7)
    image, depth = env.render_rgbd()
    for pose in (env.source, env.target):
        ((u, v),), (distance,) = project(pose[None, :3, 3], env.intrinsics, env.extrinsics)
        assert abs(depth[int(v), int(u)] - distance) < 0.03, "its surface is nearer than its middle, a little"
        assert (image[int(v), int(u)] != env.photograph[int(v), int(u)]).any()
