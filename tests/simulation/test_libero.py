import subprocess
import sys

import numpy as np
import pytest
import torch
from cameras import rotation

from spatialvla.calibration.pose_solver import solve_pose
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import check_extrinsics, mirror_extrinsics, pose_matrix, transform
from spatialvla.geometry.known_cameras import LIBERO_WRIST
from spatialvla.geometry.rotations import matrices
from spatialvla.geometry.workspace import AROUND_BASE
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.skills.carry_into import CarryInto
from spatialvla.simulation.libero.skills.goals import skills_for
from spatialvla.simulation.libero.skills.hand import Hand
from spatialvla.simulation.libero.skills.opening import Close
from spatialvla.simulation.libero.tasks import suites, tasks
from spatialvla.vision.ego3d import Ego3DPositionEncoding, patch_points

pytestmark = pytest.mark.sim


@pytest.fixture(scope="module")
def env() -> LiberoEnv:
    """A bowl in an open drawer."""
    pytest.importorskip("libero")
    return LiberoEnv(tasks("libero_spatial")[4], image_size=96)


def _bowl(env: LiberoEnv) -> np.ndarray:
    return env.data.xpos[env.simulator.obj_body_id[env.simulator.obj_of_interest[0]]].copy()


def test_shapes_and_kinds_of_observations(env):
    env.reset_to(env.task.start_states()[0])
    image, depth = env.render_rgbd()
    assert (image.shape, image.dtype) == ((96, 96, 3), np.uint8)
    assert (depth.shape, depth.dtype) == ((96, 96), np.float32)
    assert env.intrinsics.shape == (3, 3)
    assert env.proprioception().shape == (8,)
    assert image.std() > 20  # a picture, not a blank
    np.testing.assert_array_equal(image, env.render())


def test_the_states_rotation_never_jumps(env):
    env.reset_to(env.task.start_states()[0])
    states = []
    for turn in (1, -1, -1, 1):
        for _ in range(10):
            env.step(np.array([0, 0, 0, 0.3 * turn, -0.3 * turn, 0.3 * turn, 0]))
            states.append(env.proprioception())
    vectors = np.array(states)[:, 3:6]
    assert np.linalg.norm(vectors, axis=1).max() > np.pi, "passes half a turn"
    assert np.abs(np.diff(vectors, axis=0)).max() < 0.2
    (turned,) = matrices(vectors[-1:], "axis_angle")
    np.testing.assert_allclose(turned, env.gripper_rotation, atol=1e-6)


def test_depth_back_projects_to_the_bowl(env):
    env.reset_to(env.task.start_states()[0])
    env.settle()
    floor_of_bowl = _bowl(env) + np.array([0, 0, 0.007])
    in_camera = np.linalg.inv(env.camera_pose) @ [*floor_of_bowl, 1]
    u, v, _ = env.intrinsics @ in_camera[:3] / in_camera[2]
    depth = env.render_depth()[int(v), int(u)]
    seen = np.linalg.inv(env.intrinsics) @ [int(u) + 0.5, int(v) + 0.5, 1] * depth
    np.testing.assert_allclose((env.camera_pose @ [*seen, 1])[:3], floor_of_bowl, atol=0.02)


def test_the_picture_is_mirrored(env):
    """Positive world y is on the camera's right, and on the left of the picture."""
    into_picture = env.intrinsics @ np.linalg.inv(env.camera_pose)[:3]
    left = into_picture @ [0, 0.2, 0.9, 1]
    right = into_picture @ [0, -0.2, 0.9, 1]
    assert left[0] / left[2] < 48 < right[0] / right[2]


def test_the_calibration_of_the_wrist_camera_is_the_simulators_own(env):
    """In the world's frame, since LIBERO reports the gripper's pose there, after motions of the whole arm."""
    actions = np.random.default_rng(6).uniform(-1, 1, (40, 7))
    env.reset_to(env.task.start_states()[0])
    for number, action in enumerate(actions):
        env.step(action)
        if number % 8 == 0:
            own = env.data.camera("robot0_eye_in_hand")
            # MuJoCo's cameras look along -z with y up.
            expected = pose_matrix(np.array(own.xpos), own.xmat.reshape(3, 3) @ np.diag([1.0, -1.0, -1.0]))
            gripper = pose_matrix(env.gripper_position, env.gripper_rotation)
            np.testing.assert_allclose(LIBERO_WRIST.extrinsics_at(gripper), expected, atol=1e-5)


def test_a_thing_is_where_the_wrist_cameras_picture_and_depth_say(env):
    """The mirrored picture's depth in a pixel is what MuJoCo measures along the ray that K and the pose give."""
    env.reset_to(env.task.start_states()[0])
    env.settle()
    gripper = pose_matrix(env.gripper_position, env.gripper_rotation)
    wrist = LIBERO_WRIST.scaled_to(96, 96)
    at_front, env.camera = env.camera, "robot0_eye_in_hand"
    try:
        depth = env.render_depth()
        np.testing.assert_allclose(env.intrinsics, wrist.camera.intrinsics, atol=1e-9)
        np.testing.assert_allclose(env.camera_pose, wrist.picture_pose(gripper), atol=1e-5)
    finally:
        env.camera = at_front
    u, v = 70, 20
    ray = wrist.picture_pose(gripper)[:3, :3] @ np.linalg.inv(wrist.camera.intrinsics) @ [u + 0.5, v + 0.5, 1]
    origin = wrist.extrinsics_at(gripper)[:3, 3]
    geom, visible = np.zeros(1, np.int32), np.array([0, 1, 0, 0, 0, 0], np.uint8)  # those that are drawn
    hit = env._mujoco.mj_ray(env.model, env.data, origin, ray, visible, 1, -1, geom)
    assert depth[v, u] == pytest.approx(hit, abs=0.01)


def test_a_marked_gripper_in_the_pictures_leads_to_the_camera():
    """What a person would click on: a green ball between the fingertips, in the benchmark's mirrored pictures."""
    env = LiberoEnv(tasks("libero_spatial")[4], image_size=256)
    env.reset_to(env.task.start_states()[0])
    ball = env._robot.eef_site_id
    env.model.site_rgba[ball], env.model.site_size[ball] = [0, 1, 0, 1], 0.015
    rng, positions, pixels = np.random.default_rng(0), [], []
    for _ in range(18):
        motion = rng.uniform(-1, 1, 3)
        for _ in range(8):
            env.step(np.r_[motion, 0, 0, 0, 1])
        red, green, blue = np.moveaxis(env.render().astype(int), 2, 0)
        rows, columns = np.nonzero((green > red + 80) & (green > blue + 80))
        positions.append(env.gripper_position)
        pixels.append([(columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2])
    camera = Camera(env.intrinsics, 256, 256)
    seen, where = np.array(pixels), np.array(positions)
    fit = solve_pose(where, seen, camera, mirrored=True)
    assert fit.mean_error < 0.5
    assert fit.outliers.sum() <= 1  # once another green thing is in the picture
    real = mirror_extrinsics(env.camera_pose)
    assert np.linalg.norm(fit.pose[:3, 3] - real[:3, 3]) < 0.015
    np.testing.assert_allclose(fit.pose[:3, :3], real[:3, :3], atol=0.015)
    with pytest.raises(InputError, match="flipped left to right"):
        solve_pose(where, seen, camera)
    env.close()


def test_extrinsics_lead_to_the_arms_base(env):
    """A point of the robot is where its kinematics say: the shoulder's joint stands 0.333 m above a Panda's base."""
    env.reset_to(env.task.start_states()[0])
    camera = check_extrinsics(env.extrinsics)  # of the real camera: a rigid motion
    shoulder = env.data.body("robot0_link1").xpos
    in_picture = np.linalg.inv(env.camera_pose) @ [*shoulder, 1]
    seen = transform(mirror_extrinsics(camera), in_picture[None, :3])
    np.testing.assert_allclose(seen, [[0, 0, 0.333]], atol=1e-6)


def test_a_thing_has_the_same_place_and_code_from_two_cameras(env):
    """A plate in two cameras' depth: one point of the robot's frame, and two of the cameras' own."""
    torch.manual_seed(0)
    encoding, places, codes, own = Ego3DPositionEncoding(1, 2, 16), [], [], []
    env.reset_to(env.task.start_states()[0])
    env.settle()
    usual = mirror_extrinsics(env.camera_pose)
    turn = pose_matrix(np.zeros(3), rotation([0, 0, 0.25]))
    plate = env.data.xpos[env.simulator.obj_body_id["plate_1"]].copy()
    try:
        for camera in (usual, turn @ usual):
            env.place_camera(camera)
            in_camera = np.linalg.inv(env.camera_pose) @ [*plate, 1]
            column, row = (env.intrinsics @ in_camera[:3] / in_camera[2])[:2].astype(int)
            seen = torch.from_numpy(env.render_depth())[None]
            pose = torch.from_numpy(mirror_extrinsics(env.extrinsics))[None]
            points = patch_points(seen, torch.from_numpy(env.intrinsics)[None], 1, 1, pose)
            place = points.view(96, 96, 3)[row, column]
            places.append(place.numpy())
            codes.append(encoding(place[None, None], AROUND_BASE)[0, 0].detach().numpy())
            own.append(encoding(torch.tensor(in_camera[None, None, :3]))[0, 0].detach().numpy())
    finally:
        env.place_camera(usual)
    base = env.data.body("robot0_base")
    expected = base.xmat.reshape(3, 3).T @ (plate - base.xpos)
    np.testing.assert_allclose(places, [expected, expected], atol=0.02)
    assert 10 * np.abs(codes[0] - codes[1]).max() < np.abs(own[0] - own[1]).max()


def test_the_same_seed_gives_the_same_start(env):
    first = env.sample_state(np.random.default_rng(7))
    np.testing.assert_array_equal(env.sample_state(np.random.default_rng(7)), first)
    assert np.abs(env.sample_state(np.random.default_rng(8)) - first).max() > 1e-3


def test_fresh_starts_are_none_of_the_stored_ones(env):
    stored = env.task.start_states()
    for seed in range(3):
        fresh = env.sample_state(np.random.default_rng(seed))[: stored.shape[1]]
        assert np.abs(stored - fresh).max(axis=1).min() > 1e-3


def test_fresh_starts_hold_the_arm_as_variously_as_stored_ones(env):
    joints = slice(1, 8)  # of a state, behind its time
    stored = env.task.start_states()[:, joints]
    fresh = np.stack([env.sample_state(np.random.default_rng(seed))[joints] for seed in range(6)])
    np.testing.assert_allclose(fresh.mean(axis=0), stored.mean(axis=0), atol=0.04)
    spread, wanted = (np.std(states - states.mean(axis=0)) for states in (fresh, stored))
    assert 0.5 < spread / wanted < 1.5


def test_fresh_and_stored_starts_have_the_bowl_in_the_drawer(env):
    for start in [*env.task.start_states()[:2], env.sample_state(np.random.default_rng(1))]:
        env.reset_to(start)
        env.settle()
        assert 1.05 < _bowl(env)[2] < 1.08


def test_a_state_can_be_resumed(env):
    env.sample_state(np.random.default_rng(2))
    env.settle()
    actions = np.random.default_rng(3).uniform(-0.5, 0.5, (12, 7))
    actions[:, 6] = 0
    for action in actions[:6]:
        env.step(action)
    middle = env.state()
    for action in actions[6:]:
        env.step(action)
    end = env.state()
    env.sample_state(np.random.default_rng(9))
    env.reset_to(middle)
    np.testing.assert_array_equal(env.state(), middle)
    for action in actions[6:]:
        env.step(action)
    np.testing.assert_allclose(env.state(), end, atol=1e-3)


def test_stepping_is_bit_by_bit_what_the_benchmark_does(env):
    actions = np.random.default_rng(4).uniform(-1, 1, (15, 7)) * [1, 1, 1, 0.2, 0.2, 0.2, 1]
    ends = []
    for step in (env.step, lambda a: env.simulator.step(np.r_[a[:6], 1 - 2 * a[6]])):
        env.reset_to(env.task.start_states()[1])
        for action in actions:
            step(action)
        ends.append(env.state())
    np.testing.assert_array_equal(*ends)


def test_an_action_that_is_none_is_refused(env):
    for action in (np.zeros(6), np.full(7, np.nan)):
        with pytest.raises(InputError, match="7 finite numbers"):
            env.step(action)


def test_a_state_of_another_task_is_refused(env):
    with pytest.raises(InputError, match="take it from the same task"):
        env.reset_to(np.zeros(5))


@pytest.mark.parametrize("task", [4, 5])
def test_the_expert_succeeds_from_a_fresh_start(env, task):
    env = env if task == 4 else LiberoEnv(tasks("libero_spatial")[task], image_size=32)
    expert = LiberoExpert(env)
    env.sample_state(np.random.default_rng(11))
    env.settle()
    assert any(env.step(expert()) for _ in range(220))


@pytest.mark.parametrize("task", [6, 7])
def test_the_expert_puts_flat_and_tall_things_into_the_basket(task):
    env = LiberoEnv(tasks("libero_object")[task], image_size=32)
    expert = LiberoExpert(env)
    env.sample_state(np.random.default_rng(11))
    env.settle()
    assert any(env.step(expert()) for _ in range(220))


@pytest.mark.parametrize(
    ("suite", "task"),
    [
        ("libero_goal", 0),  # opens a drawer
        ("libero_goal", 5),  # pushes
        ("libero_10", 2),  # turns a knob, then takes a pot by its handle
        ("libero_10", 3),  # puts into a drawer, which it closes
        ("libero_10", 4),  # takes mugs by their walls, one after another
        ("libero_10", 5),  # turns a book to fit
        ("libero_10", 9),  # puts into a microwave, which it closes
    ],
)
def test_the_expert_brings_about_every_kind_of_goal(suite, task):
    env = LiberoEnv(tasks(suite)[task], image_size=32)
    expert = LiberoExpert(env)
    env.sample_state(np.random.default_rng(11))
    env.settle()
    assert any(env.step(expert()) for _ in range(300))


def test_the_expert_closes_last():
    env = LiberoEnv(tasks("libero_10")[3], image_size=32)
    assert env.simulator.parsed_problem["goal_state"][0][0] == "close"
    skills = skills_for(env, Hand(env))
    assert [type(skill) for skill in skills] == [CarryInto, Close]


def test_the_expert_says_which_goals_it_does_not_know(env, monkeypatch):
    monkeypatch.setitem(env.simulator.parsed_problem, "goal_state", [["stack", "plate_1", "plate_1"]])
    with pytest.raises(InputError, match=r"cannot make a goal of .*stack"):
        LiberoExpert(env)


@pytest.mark.parametrize(("suite", "task"), [("libero_spatial", 4), ("libero_goal", 3)])
def test_the_expert_is_a_function_of_the_state(suite, task):
    env = LiberoEnv(tasks(suite)[task], image_size=32)
    expert = LiberoExpert(env)
    env.sample_state(np.random.default_rng(5))
    env.settle()
    for _ in range(30):
        env.step(expert())
    state, action = env.state(), expert()
    for _ in range(30):
        env.step(expert())
    env.reset_to(state)
    np.testing.assert_array_equal(expert(), action)
    np.testing.assert_array_equal(LiberoExpert(env)(), action)


def test_the_suites_of_the_paper_are_there():
    assert {"libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"} <= set(suites())
    assert len(tasks("libero_spatial")) == 10


def test_an_unknown_suite_is_refused():
    with pytest.raises(InputError, match="no suite 'libero_nowhere'"):
        tasks("libero_nowhere")


def test_reworded_suites_use_the_scene_files_words():
    plain, reworded = tasks("libero_spatial")[0], tasks("libero_spatial_lan")[0]
    assert plain.language.startswith("pick up the black bowl")
    assert reworded.language != plain.language


def test_robosuites_log_of_another_user_is_no_obstacle(tmp_path):
    code = """
import logging, os
from spatialvla.simulation.libero import tasks
tasks._ROBOSUITE_LOG = os.devnull
os.access = lambda path, mode: False
def refuse(handler):
    raise PermissionError(handler.baseFilename)
logging.FileHandler._open = refuse
tasks.libero()
import robosuite
assert logging.FileHandler._open is refuse
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
