from dataclasses import dataclass, replace

import av
import numpy as np
import pytest
from fakes import FakePolicy

from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.protocol import Conventions
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.geometry.rotations import matrices

pytestmark = pytest.mark.sim


@dataclass(frozen=True)
class ShortLibero(LiberoBenchmark):
    def conventions(self, suite: str) -> Conventions:
        return replace(super().conventions(suite), time_limit=6)


def test_an_episode_in_the_real_simulator(tmp_path):
    class Watcher(FakePolicy):
        def predict(self, observations):
            self.seen = observations
            return super().predict(observations)

    policy = Watcher()
    results = evaluate(
        policy,
        "libero_spatial",
        1,
        benchmark=ShortLibero(),
        settings=PolicySettings(),
        out=tmp_path,
        workers=1,
        tasks=[3],
        depth="simulator",
    )
    (episode,) = results.episodes
    assert (episode.steps, episode.success) == (6, False)
    assert results.tasks == {3: "pick up the black bowl on the cookie box and place it on the plate"}
    (seen,) = policy.seen
    assert seen.image.shape == (128, 128, 3)
    assert seen.depth.shape == (128, 128)
    assert 0.3 < np.median(seen.depth) < 3
    with av.open(str(tmp_path / episode.video)) as container:
        assert len(list(container.decode(video=0))) == 4


def test_every_installed_suite_has_tasks_and_rules():
    from spatialvla.simulation.libero.tasks import suites

    benchmark = LiberoBenchmark()
    assert {"libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"} <= set(suites())
    for suite in suites():
        assert all(benchmark.instructions(suite))
        assert benchmark.conventions(suite).time_limit >= 220


def rotation_vector(matrix):
    axis = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    angle = np.arccos(min((np.trace(matrix) - 1) / 2, 1.0))
    return axis / 2 * (angle / np.sin(angle) if angle > 1e-6 else 1.0)


def test_conventions_are_what_the_simulator_does():
    """Each convention that silently ruins scores, against the simulator itself."""
    benchmark = LiberoBenchmark()
    rules = benchmark.conventions("libero_spatial")
    task = benchmark.open("libero_spatial", 2, rules)
    env, still = task._env, np.array(rules.settle_action)
    task.start(0)
    before, fingers = env.gripper_position, env.proprioception()[6] - env.proprioception()[7]
    assert fingers > 0.07, "settling leaves the gripper open"

    # Settling: the things have come to rest, and the arm has not moved.
    positions = env._positions()
    for _ in range(rules.control_hz):
        assert task.step(still) is False
    assert np.abs(env._positions() - positions).max() < 2e-3
    assert np.linalg.norm(env.gripper_position - before) < 5e-3

    # Image: rotated by 180 degrees from what the renderer gives.
    seen = np.asarray(task.observe(depth=False).image)
    assert (seen == env._draw(depth=False)[::-1, ::-1]).all()
    assert seen.shape == (rules.image_size, rules.image_size, 3)

    # Gripper: 0 closes, 1 opens.
    for command, closed in ((0.0, True), (1.0, False)):
        for _ in range(15):
            task.step(np.array([0, 0, 0, 0, 0, 0, command]))
        assert (env.proprioception()[6] - env.proprioception()[7] < 0.01) == closed

    # Translation and rotation: along and about the world's axes, from where the arm is; 1 = 5 cm or 0.5 rad.
    controller = env._robot.controller
    for command in ([0, 0.2, 0, 0, 0, 0, 1.0], [0, 0, 0, 0.1, 0, 0, 1.0], [0, 0, 0, 0, 0, 0.4, 1.0]):
        start, turned = env.gripper_position, env.gripper_rotation
        task.step(np.array(command))
        assert controller.goal_pos - start == pytest.approx(0.05 * np.array(command[:3]), abs=2e-3)
        goal = rotation_vector(controller.goal_ori @ turned.T)
        assert goal == pytest.approx(0.5 * np.array(command[3:6]), abs=2e-2)
    for _ in range(10):
        task.step(np.array([0, 0.2, 0, 0, 0, 0, 1.0]))
    moved = env.gripper_position - start
    assert moved[1] > 0.01
    assert np.abs(moved[[0, 2]]).max() < moved[1] / 2
    # Proprioception, which no policy here is given, writes the same orientation as a rotation vector.
    (reported,) = matrices(env.proprioception()[None, 3:6], "axis_angle")
    assert reported == pytest.approx(env.gripper_rotation, abs=1e-5)

    # Seeds: the same start state gives the same picture again, fixtures included.
    task.start(1)
    first = np.asarray(task.observe(depth=False).image)
    task.start(0)
    task.start(1)
    assert (np.asarray(task.observe(depth=False).image) == first).all()
    task.close()
