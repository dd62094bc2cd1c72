"""The server for LeRobot's robot client, told the bytes that the client sends."""

import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_policy import FakePolicy, expected
from lerobot_client import FEATURES, Robot, numbers, refused, said, served
from lerobot_stand_in import TimedObservation, lerobot
from running import picture

from spatialvla.errors import InputError
from spatialvla.serving.guard.limits import Limits, Workspace
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.lerobot.uploads import BEGIN, END, MIDDLE
from spatialvla.serving.lerobot.wire import ObservationPart
from spatialvla.types import Observation

__all__ = ["lerobot"]  # a fixture
pytestmark = pytest.mark.usefixtures("lerobot")

GOLDENS = Path(__file__).parents[1] / "goldens" / "lerobot"


def test_the_bytes_of_the_unmodified_client_get_a_chunk() -> None:
    with served(control_hz=20) as connect:
        robot = connect()
        robot.call("Ready")
        robot.call("SendPolicyInstructions", (GOLDENS / "SendPolicyInstructions_0.bin").read_bytes())
        robot.stream((GOLDENS / "SendObservations_0.bin").read_bytes())
        actions = robot.actions()
    image = np.zeros((16, 16, 3), np.uint8)
    assert np.allclose(numbers(actions), expected(Observation(image, "pick up the bowl")), atol=1e-7)
    assert [action.timestep for action in actions] == [1, 2, 3, 4]
    assert np.allclose(np.diff([action.timestamp for action in actions]), 1 / 20)


def test_actions_are_for_the_steps_after_the_observations() -> None:
    with served() as connect:
        robot = connect()
        robot.begin(actions=3)
        robot.see(1, step=8)
        actions = robot.actions()
    assert [action.timestep for action in actions] == [9, 10, 11]
    assert np.allclose(numbers(actions), said(1)[:3], atol=1e-7)


def test_nothing_seen_in_time_is_nothing_to_do() -> None:
    with served() as connect:
        robot = connect()
        robot.begin()
        assert robot.actions() == []


def test_the_newest_observation_counts() -> None:
    with served() as connect:
        robot = connect()
        robot.begin()
        robot.see(1)
        robot.see(2)
        assert np.allclose(numbers(robot.actions()), said(2), atol=1e-7)
        assert robot.actions() == []


def test_an_observation_may_come_while_the_client_waits() -> None:
    with served(wait=10) as connect, ThreadPoolExecutor() as threads:
        robot = connect()
        robot.begin()
        waiting = threads.submit(robot.actions)
        robot.see(3)
        assert np.allclose(numbers(waiting.result(10)), said(3), atol=1e-7)


def test_a_step_is_decided_on_once_unless_the_robot_has_nothing_left_to_do() -> None:
    with served() as connect:
        robot = connect()
        robot.begin()
        robot.see(1, step=4)
        assert robot.actions()
        robot.see(2, step=4, go=False)
        assert robot.actions() == []
        robot.see(3, step=5, go=False)
        assert np.allclose(numbers(robot.actions()), said(3), atol=1e-7)
        robot.see(4, step=5, go=True)
        assert np.allclose(numbers(robot.actions()), said(4), atol=1e-7)


def test_a_robot_that_has_hardly_moved_is_passed_over_where_that_is_asked_for() -> None:
    with served(similar=1.0) as connect:
        robot = connect()
        robot.begin()
        robot.see(1, step=1)
        assert robot.actions()
        robot.see(2, step=2, go=False, x=1.5)
        assert robot.actions() == []
        robot.see(3, step=2, go=False, x=2.5)
        assert robot.actions()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("crash", "Inference failed"),
        ("nan", "NaN or infinity"),
        ("refuse", "cannot be used"),
        ("", "instruction is empty"),
    ],
)
def test_a_failure_is_told_and_the_step_can_be_tried_again(text: str, sentence: str) -> None:
    with served() as connect:
        robot = connect()
        robot.begin()
        robot.see(1, text=text)
        with pytest.raises(grpc.RpcError, match=sentence) as caught:
            robot.actions()
        assert "secret" not in str(caught.value)
        robot.see(2, go=False)
        assert np.allclose(numbers(robot.actions()), said(2), atol=1e-7)


def test_ready_begins_a_new_episode() -> None:
    policy = FakePolicy()
    with served(policy) as connect:
        robot = connect()
        for _ in range(2):
            robot.begin()
            robot.see(1, step=0, go=False)
            assert robot.actions()
    assert len(policy.executors) == 2
    assert policy.drafts == [[None], [None]]


def test_robots_at_the_same_time_get_their_own_answers() -> None:
    def play(robot: Robot, number: int) -> None:
        robot.begin()
        for step in range(5):
            robot.see(10 * number + step, step=4 * step)
            actions = robot.actions()
            assert np.allclose(numbers(actions), said(10 * number + step), atol=1e-7)
            assert actions[0].timestep == 4 * step + 1

    policy = FakePolicy()
    policy.gate.clear()
    patient = TrafficLimits(longest_age=60)  # of observations that wait here for the others
    with served(policy, wait=15, traffic=patient) as connect, ThreadPoolExecutor(8) as threads:
        playing = [threads.submit(play, connect(), number) for number in range(8)]
        deadline = time.monotonic() + 10  # either the first batch takes four, or four are left waiting
        while connect.service.engine.metrics.value("queued_requests") < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        policy.gate.set()
        for done in playing:
            done.result(30)
    assert max(map(len, policy.batches)) >= 4


def test_a_robot_that_is_heard_of_in_the_middle_of_an_episode_goes_on() -> None:
    with served() as connect:
        robot = connect()
        robot.see(1, step=12)
        assert robot.actions()[0].timestep == 13


def test_of_too_many_connections_the_one_longest_unheard_of_is_forgotten() -> None:
    with served(traffic=TrafficLimits(max_connections=2)) as connect:
        first, second, third = (connect() for _ in range(3))
        for number, robot in enumerate((first, second, third)):
            robot.begin()
            robot.see(number)
        assert first.actions() == []
        assert third.actions()


BOX = Limits(
    workspace=Workspace(np.array([-1.0, -1, -1]), np.array([0.1, 0.1, 0.1])),
    frame="base",
    meters_per_unit=1.0,
    radians_per_unit=1.0,
)
"""Where the robot is at x = 0.1, the fake policy would lead it through the wall."""


@pytest.fixture
def boxed(tmp_path: Path) -> dict[str, Any]:
    mapping = tmp_path / "boxed.yaml"
    mapping.write_text("image: front\nprompt: task\nstate: observation.state\nposition: [0, 1, 2]\n")
    return {"mapping": str(mapping), "limits": BOX}


def moved(robot: Robot) -> float:
    return float(numbers(robot.actions())[:, 0].max())


def test_a_workspace_holds_after_a_reconnect_and_another_ready(boxed: dict[str, Any]) -> None:
    with served(**boxed) as connect:
        robot = connect()
        robot.begin()
        robot.see(9, x=0.1)
        assert moved(robot) == 0
        robot.call("Ready")
        robot.see(9, x=0.1)
        assert moved(robot) == 0
        again = connect()
        again.see(9, x=0.1)
        assert moved(again) == 0
        again.call("Ready")
        again.see(9, x=0.0)
        assert moved(again) > 0, "inside it moves"


def test_a_robot_whose_state_cannot_be_told_is_sent_nothing(boxed: dict[str, Any]) -> None:
    with served(**boxed) as connect:
        unknown = connect()
        unknown.see(9, x=0.1)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "does not tell its position"):
            unknown.actions()
        known, turned = connect(), connect()
        known.begin()
        state = {**FEATURES["observation.state"], "names": ["z", "y", "x"]}
        turned.begin({**FEATURES, "observation.state": state})
        back = connect()
        back.see(9, x=0.1)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "does not tell its position"):
            back.actions()
        known.see(9, x="broken")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "does not tell its position"):
            known.actions()


def test_a_workspace_that_the_mapping_cannot_keep_does_not_start() -> None:
    with pytest.raises(InputError, match="add state and position"), served(limits=BOX):
        pass


def test_an_observation_that_has_waited_too_long_is_not_acted_on() -> None:
    with served(traffic=TrafficLimits(longest_age=0.2)) as connect:
        robot = connect()
        robot.begin()
        robot.see(1)
        time.sleep(0.3)
        with refused(grpc.StatusCode.ABORTED, r"is 0\.\d s old, more than 0\.2 s"):
            robot.actions()
        assert connect.service.engine.metrics.value("requests_total", outcome="stale") == 1
        robot.see(2, go=False)
        assert np.allclose(numbers(robot.actions()), said(2), atol=1e-7)


def test_an_observation_is_as_old_as_its_first_part() -> None:
    with served(traffic=TrafficLimits(longest_age=0.3)) as connect:
        robot = connect()
        robot.begin()
        content = {"front": picture(1), "task": "pick", "x": 1.0, "y": 0.0, "z": 0.0}
        data = pickle.dumps(TimedObservation(1.0, 0, content, True))

        def slowly() -> Iterator[bytes]:
            yield ObservationPart(transfer_state=BEGIN, data=data[:100]).SerializeToString()
            time.sleep(0.4)
            yield ObservationPart(transfer_state=END, data=data[100:]).SerializeToString()

        robot.channel.stream_unary("/transport.AsyncInference/SendObservations")(slowly(), timeout=20)
        with refused(grpc.StatusCode.ABORTED, r"is 0\.\d s old, more than 0\.3 s"):
            robot.actions()
        robot.see(2)
        assert np.allclose(numbers(robot.actions()), said(2), atol=1e-7)


def test_an_answer_that_comes_too_late_is_not_sent() -> None:
    with served(FakePolicy(0.4), traffic=TrafficLimits(longest_age=0.2)) as connect:
        robot = connect()
        robot.begin()
        robot.see(1)
        with refused(grpc.StatusCode.ABORTED, "s old"):
            robot.actions()


def test_depth_in_millimeters_becomes_meters(tmp_path: Path) -> None:
    class Watching(FakePolicy):
        def decide(self, observations: Any, executors: Any) -> Any:
            self.depth = observations[0].views[0].depth
            return super().decide(observations, executors)

    depth = np.full((16, 16, 1), 1500, np.uint16)
    depth[0, 0] = 0
    policy = Watching()
    with served(policy) as connect:
        robot = connect()
        robot.begin()
        robot.see(1, front_depth=depth)
        assert robot.actions()
    assert np.allclose(policy.depth, 1.5)


def test_long_observations_come_in_parts() -> None:
    content = {"front": picture(5), "task": "pick"}
    data = pickle.dumps(TimedObservation(1.0, 0, content, True))
    with served() as connect:
        robot = connect()
        robot.begin()
        states = [BEGIN, MIDDLE, END]
        cuts = [data[:100], data[100:300], data[300:]]
        old = ObservationPart(transfer_state=BEGIN, data=b"begun and given up").SerializeToString()
        robot.stream(
            old,
            *(
                ObservationPart(transfer_state=state, data=part).SerializeToString()
                for state, part in zip(states, cuts, strict=True)
            ),
        )
        assert np.allclose(numbers(robot.actions()), said(5), atol=1e-7)
