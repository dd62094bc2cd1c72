"""The spatial exam in the simulator."""

import numpy as np
import pytest

from spatialvla.evaluation.benchmarks import idle_environment
from spatialvla.evaluation.benchmarks.spatial_exam import SpatialExamBenchmark
from spatialvla.simulation.libero.exam.layouts import MEANT, OTHER, PLATE
from spatialvla.simulation.libero.exam.questions import QUESTIONS, SKILLS, SUITE
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.skills.hand import Hand

pytestmark = pytest.mark.sim


def opened(number):
    benchmark = SpatialExamBenchmark(128)
    return benchmark.open(SUITE, number, benchmark.conventions(SUITE))


def started(number, episode=0):
    task = opened(number)
    task.start(episode)
    return task


def position(task, thing):
    return task.env.data.xpos[task.env.simulator.obj_body_id[thing]].copy()


def table_top(env):
    table = env.data.geom("table_collision")
    return table.xpos[2] + env.model.geom("table_collision").size[2]


def test_the_halves_of_a_picture_look_alike_and_say_different_things():
    left, right = SKILLS["left and right"][0].numbers
    task = started(left)
    first, place = task.observe(depth=True), position(task, MEANT)
    task.close()
    task = started(right)
    second = task.observe(depth=True)
    np.testing.assert_allclose(position(task, OTHER), place, atol=1e-4)
    task.close()
    assert np.abs(np.asarray(first.image, int) - np.asarray(second.image)).mean() < 0.1
    assert np.abs(first.depth - second.depth).max() < 0.01
    assert (first.instruction, second.instruction) == tuple(QUESTIONS[n].instruction for n in (left, right))


@pytest.mark.parametrize(("pair", "half", "by"), [(0, 0, -0.05), (0, 1, 0.05), (1, 0, -0.1), (1, 1, 0.1)])
def test_all_stands_on_a_table_of_another_height_while_robot_and_camera_stay(pair, half, by):
    task = started(SKILLS["height"][pair].numbers[half])
    env = task.env
    assert table_top(env) == pytest.approx(0.9 + by)
    assert env.data.camera("agentview").xpos == pytest.approx([0.6586, 0, 1.6104], abs=1e-3)
    assert env.base_pose[2, 3] == pytest.approx(0.912)
    assert env.gripper_position == pytest.approx([-0.208, 0, 1.173], abs=2e-3)
    before = {thing: position(task, thing) for thing in env.simulator.objects_dict}
    for _ in range(10):
        task.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    for thing, place in before.items():
        np.testing.assert_allclose(position(task, thing), place, atol=2e-3)
        assert -0.003 < place[2] - table_top(env) < 0.02, thing
    assert not task.chose
    assert Hand(env).floor == pytest.approx(0.9 + by, abs=0.02)
    task.close()


def test_an_environment_goes_back_to_how_it_was_built():
    number = SKILLS["another instruction"][0].numbers[0]
    idle_environment.close_idle()
    task = started(number)
    alone = task.observe(depth=True)
    task.close()
    task = started(SKILLS["height"][1].numbers[1])
    assert np.abs(task.observe(depth=True).depth - alone.depth).max() > 0.03
    task.close()
    task = started(number)
    again = task.observe(depth=True)
    task.close()
    np.testing.assert_array_equal(again.image, alone.image)
    np.testing.assert_array_equal(again.depth, alone.depth)


def played_by_expert(task, episode, expert_of=LiberoExpert):
    task.start(episode)
    expert = expert_of(task.env)
    for step in range(220):
        if task.step(expert()) or task.ended:
            return step
    return 220


@pytest.mark.parametrize(
    "number",
    [
        *SKILLS["height"][1].numbers,
        *SKILLS["in front and behind"][0].numbers,
        SKILLS["swapped places"][2].numbers[1],
    ],
)
def test_the_expert_takes_the_right_bowl_and_places_it(number):
    task = opened(number)
    assert played_by_expert(task, 0) < 200
    assert task.env.success()
    assert (task.chose, task.ended) == (True, False)
    task.close()


class Mistaken(LiberoExpert):
    """Takes the other bowl."""

    def __init__(self, env):
        env.simulator.parsed_problem["goal_state"] = [["on", OTHER, PLATE]]
        try:
            super().__init__(env)
        finally:
            env.simulator.parsed_problem["goal_state"] = [["on", MEANT, PLATE]]


def test_the_wrong_bowl_on_the_plate_ends_the_episode():
    task = opened(SKILLS["nearest and farthest"][0].numbers[0])
    assert played_by_expert(task, 0, Mistaken) < 200
    assert not task.env.success()
    assert (task.chose, task.ended) == (False, True)
    task.start(1)
    assert (task.chose, task.ended) == (None, False)
    task.close()
