"""What a policy of several cameras and a state asks of vla-eval's benchmarks, by the harness's own client."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import numpy as np
import pytest
from running import fake_service
from vla_eval.connection import Connection
from vla_eval.registry import resolve_import_string
from vla_eval.specs import DimSpec, check_specs
from vla_eval_policy import EPISODE, RobotPolicy, policy_for, served

from spatialvla.actions.published_units import published_units
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.extrinsics import pose_matrix
from spatialvla.geometry.known_cameras import LIBERO_AGENTVIEW, LIBERO_WRIST
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.geometry.rotations import matrices
from spatialvla.serving.vla_eval.conventions import LIBERO, SIMPLER_WIDOWX, HarnessBenchmark
from spatialvla.serving.vla_eval.model_server import VlaEvalServer
from spatialvla.simulation.recording.demonstration import STATE_NAMES

FRONT = np.full((256, 256, 3), 10, np.uint8)
WRIST = np.full((256, 256, 3), 20, np.uint8)
STATE = np.array([-0.5, -0.4, -0.2, 0.1, 0.3, 0.2, 0.4, 0.5])
PLACE = pose_matrix(
    np.array([1.3, 0.0, 0.6]), np.array([[0, 0.5, -0.8660254], [1, 0, 0], [0, -0.8660254, -0.5]])
)
ROBOT = RobotCalibration(
    {"agentview": CalibratedCamera(LIBERO_AGENTVIEW, PLACE, mirrored=True), "wrist": LIBERO_WRIST}
)


def two_cameras(benchmark: HarnessBenchmark = LIBERO, **more: Any) -> RobotPolicy:
    return policy_for(benchmark, **{"cameras": ("image", "wrist"), "state_size": 8, **more})


def message(**changes: Any) -> dict[str, Any]:
    whole = {"images": {"agentview": FRONT, "wrist": WRIST}, "states": STATE, "task_description": "pick"}
    return {key: value for key, value in (whole | changes).items() if value is not None}


def ask(url: str, observation: dict[str, Any]) -> dict[str, Any]:
    """What the server says of itself, after one observation."""

    async def once() -> dict[str, Any]:
        async with Connection(url) as connection:
            await connection.start_episode(EPISODE)
            await connection.act(observation)
            return connection.server_info

    return anyio.run(once)


def test_libero_is_asked_for_the_wrist_picture_and_the_state_and_the_specs_fit() -> None:
    policy = two_cameras()
    with served(policy=policy) as running:
        told = ask(running.url, message())
    (seen,) = policy.seen
    assert np.array_equal(seen.image, FRONT)
    assert np.array_equal(seen.images["wrist"].image, WRIST)
    assert np.allclose(seen.images["wrist"].intrinsics, LIBERO_WRIST.camera.intrinsics)
    assert seen.mirrored
    assert seen.images["wrist"].mirrored
    assert np.array_equal(seen.state, STATE)
    parameters = told["observation_params"]
    assert parameters["send_wrist_image"] is True
    assert parameters["send_state"] is True
    harness = resolve_import_string(LIBERO.harness_class)(**parameters)
    action, wanted = (
        {name: DimSpec.from_dict(spec) for name, spec in told[key].items()}
        for key in ("action_spec", "observation_spec")
    )
    assert {"agentview", "wrist", "state", "language"} == set(wanted)
    assert check_specs(action, harness.get_action_spec(), wanted, harness.get_observation_spec()) == []


def test_a_policy_that_learned_from_recordings_gets_the_state_that_they_have() -> None:
    policy = two_cameras()
    policy.state_names = STATE_NAMES
    with served(policy=policy) as running:
        told = ask(running.url, message(controller_states=STATE))
        ask(running.url, message(controller_states=-STATE))
    assert "quat_no_antipodal" not in told["observation_params"]
    as_sent, turned = (seen.state for seen in policy.seen)
    assert np.array_equal(as_sent, STATE)
    # The same rotation by the vector that recordings have, of which the harness sends the opposite.
    assert np.array_equal(turned[[0, 1, 2, 6, 7]], -STATE[[0, 1, 2, 6, 7]])
    np.testing.assert_allclose(
        matrices(turned[None, 3:6], "axis_angle"), matrices(-STATE[None, 3:6], "axis_angle"), atol=1e-12
    )
    assert turned[3] + turned[4] > 0


def test_a_policy_of_one_camera_asks_for_nothing_more() -> None:
    policy = policy_for(LIBERO)
    with served(policy=policy) as running:
        told = ask(running.url, message())
    assert set(told["observation_spec"]) == {"agentview", "language"}
    assert "send_wrist_image" not in told["observation_params"]
    assert policy.seen[0].images == {}
    assert policy.seen[0].state is None


def test_what_the_harness_leaves_out_is_masked() -> None:
    policy = two_cameras()
    with served(policy=policy) as running:
        ask(running.url, message(images={"agentview": FRONT}, states=None))
    assert policy.seen[0].images == {}
    assert policy.seen[0].state is None


@pytest.mark.parametrize(
    ("observation", "sentence"),
    [
        (message(images={"agentview": FRONT, "wrist": WRIST[:128]}), "128"),
        (message(images={"agentview": FRONT, "wrist": [1, 2]}), "sends images.wrist as a picture"),
        (message(states=STATE[:7]), r"sends states as 8 numbers, but it came as \(7,\)"),
        (message(states=STATE * np.nan), "states contains NaN or infinity"),
        (message(states="still"), "sends states as an array of numbers"),
    ],
)
def test_each_mistake_is_one_sentence(observation: dict[str, Any], sentence: str) -> None:
    with served(policy=two_cameras()) as running, pytest.raises(RuntimeError, match=sentence):
        ask(running.url, observation)


def server(policy: RobotPolicy, benchmark: HarnessBenchmark = LIBERO, **more: Any) -> VlaEvalServer:
    service = fake_service(policy, units=published_units(policy.dataset), **more)
    service.engine.drain(1)
    return VlaEvalServer(service, benchmark)


def test_what_a_benchmark_lacks_is_told_or_refused(caplog: Any) -> None:
    policy = two_cameras(SIMPLER_WIDOWX)
    with caplog.at_level(logging.WARNING):
        assert set(server(policy, SIMPLER_WIDOWX).get_observation_spec()) == {"primary", "language"}
    assert "simpler_widowx lacks wrist, state; the policy does without." in caplog.messages
    with pytest.raises(InputError, match="lacks what the policy has to have: wrist, state"):
        server(policy, SIMPLER_WIDOWX, require_all=True)
    caplog.clear()
    assert "state" not in server(two_cameras(state_size=7)).get_observation_spec()
    assert "libero lacks state; the policy does without." in caplog.messages
    model = server(two_cameras(), require_all=True)

    async def refused(observation: dict[str, Any]) -> str:
        context: Any = type("Context", (), {})()
        model.begin(EPISODE, context)
        with pytest.raises(InputError) as caught:
            await model.reply(observation, context)
        return str(caught.value)

    assert "needs images.wrist, but" in anyio.run(refused, message(images={"agentview": FRONT}))
    assert "needs states, which" in anyio.run(refused, message(states=None))


def test_a_policy_in_the_robots_frame_plays_with_a_calibration(caplog: Any) -> None:
    """LIBERO's state is in the world's frame, so where its wrist camera is does not follow from it."""
    policy = two_cameras(needs_extrinsics=True)
    with pytest.raises(InputError, match=r"does not tell where the camera stands.*--calibration"):
        server(policy)
    with caplog.at_level(logging.WARNING), served(policy=policy, calibration=ROBOT) as running:
        told = ask(running.url, message())
    assert "libero lacks wrist; the policy does without." in caplog.messages
    assert set(told["observation_spec"]) == {"agentview", "state", "language"}
    assert policy.seen[0].mirrored
    np.testing.assert_allclose(policy.seen[0].extrinsics, PLACE, atol=1e-7)
