"""From chunks to commands, through the harness's own `step` to what its simulators would get."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from vla_eval.benchmarks.libero.benchmark import LIBEROBenchmark
from vla_eval.benchmarks.simpler.benchmark import SimplerEnvBenchmark
from vla_eval.recording import NullEpisodeRecorder

from spatialvla.geometry.rotations import matrices
from spatialvla.serving.vla_eval.commands import (
    STICKY_STEPS,
    Commands,
    rotation_vector,
)
from spatialvla.serving.vla_eval.conventions import LIBERO, SIMPLER_GOOGLE_ROBOT, SIMPLER_WIDOWX

angle = st.floats(-3.1, 3.1)
openings = st.lists(st.floats(0, 1), min_size=1, max_size=80)


class Recorder:
    """Stands where the simulator would and keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[np.ndarray] = []
        self.robots: list[Any] = []

    def step(self, action: Sequence[float]) -> tuple[Any, ...]:
        self.told.append(np.asarray(action, np.float64))
        state = {
            "robot0_eef_pos": np.zeros(3),
            "robot0_eef_quat": [0, 0, 0, 1],
            "robot0_gripper_qpos": [0, 0],
        }
        state = {name: np.array(numbers, np.float64) for name, numbers in state.items()}
        return (state, 0.0, False, {}) if isinstance(action, list) else (state, 0.0, False, False, {})


def told(harness: Any, commands: Commands, actions: np.ndarray) -> np.ndarray:
    """(k, 7) what the simulator gets for the policy's actions."""
    harness._env, harness._recorder = Recorder(), NullEpisodeRecorder()
    commands.extend(actions)
    for _ in actions:
        harness.step({"actions": commands.next()})
    return np.stack(harness._env.told)


def with_gripper(opening: Sequence[float]) -> np.ndarray:
    """(k, 7) actions that move nothing but the gripper."""
    return np.concatenate([np.zeros((len(opening), 6)), np.array(opening)[:, None]], axis=1)


def test_libero_is_told_the_policys_numbers_and_minus_one_to_open() -> None:
    actions = np.array([[0.1, -0.2, 0.3, 0.04, -0.05, 0.06, 1.0], [0.3, 0.2, 0.1, 0.0, 0.1, 0.2, 0.0]])
    got = told(LIBEROBenchmark(**LIBERO.parameters), Commands(LIBERO), actions)
    assert np.allclose(got[:, :6], actions[:, :6])
    assert got[:, 6].tolist() == [-1, 1]


def test_the_widowx_is_told_a_rotation_vector_and_plus_one_to_open() -> None:
    actions = np.array([[0.01, -0.02, 0.03, 0.3, -0.2, 0.5, 1.0], [0, 0, 0, 0, 0, 0, 0.0]])
    got = told(SimplerEnvBenchmark(**SIMPLER_WIDOWX.parameters), Commands(SIMPLER_WIDOWX), actions)
    assert np.allclose(got[:, :3], actions[:, :3])
    assert np.allclose(matrices(got[:, 3:6], "axis_angle"), matrices(actions[:, 3:6], "euler"), atol=1e-6)
    assert got[:, 6].tolist() == [1, -1]


@given(openings)
def test_the_google_robots_gripper_moves_as_in_the_published_evaluation(opening: list[float]) -> None:
    got = told(
        SimplerEnvBenchmark(**SIMPLER_GOOGLE_ROBOT.parameters),
        Commands(SIMPLER_GOOGLE_ROBOT),
        with_gripper(opening),
    )
    assert np.allclose(got[:, 6], published_sticky(opening), atol=1e-6)


def published_sticky(opening: Sequence[float]) -> list[float]:
    """SpatialVLA's rule in SimplerEnv, but for the time a command is held, which the harness sets."""
    moves, reference, held, left = [], opening[0], 0.0, 0
    for value in opening:
        if left:
            left -= 1
        elif abs(reference - value) > 0.5:
            held, reference, left = reference - value, value, STICKY_STEPS - 1
        else:
            held = 0.0
            moves.append(reference - value)
            continue
        moves.append(held)
    return moves


def test_a_command_is_held_as_long_as_the_harness_says() -> None:
    got = told(
        SimplerEnvBenchmark(**SIMPLER_GOOGLE_ROBOT.parameters),
        Commands(SIMPLER_GOOGLE_ROBOT),
        with_gripper([1, 1, *[0] * 40]),
    )
    assert got[:, 6].tolist() == [0, 0, *[1] * STICKY_STEPS, *[0] * (40 - STICKY_STEPS)]


@given(angle, angle, angle)
def test_a_rotation_vector_turns_as_the_angles_do(roll: float, pitch: float, yaw: float) -> None:
    angles = np.array([roll, pitch, yaw])
    vector = rotation_vector(angles)
    assert np.linalg.norm(vector) <= np.pi + 1e-9
    assert np.allclose(matrices(vector[None], "axis_angle"), matrices(angles[None], "euler"), atol=1e-7)


def test_no_turn_is_no_turn() -> None:
    assert rotation_vector(np.zeros(3)).tolist() == [0, 0, 0]
