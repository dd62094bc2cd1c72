"""The server for LeRobot's robot client, told the bytes that the client sends."""

import asyncio
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_policy import FakePolicy, expected
from lerobot_stand_in import RemotePolicyConfig, TimedObservation, lerobot
from running import fake_service, options, picture

from spatialvla.errors import InputError
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.guard.access import Access
from spatialvla.serving.guard.limits import Limits, Workspace
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.lerobot import server as protocol
from spatialvla.serving.lerobot.wire import BEGIN, END, MIDDLE, Actions, ObservationPart, PolicySetup
from spatialvla.types import Observation

__all__ = ["lerobot"]  # a fixture
pytestmark = pytest.mark.usefixtures("lerobot")

GOLDENS = Path(__file__).parents[1] / "goldens" / "lerobot"
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    "observation.images.front": {
        "dtype": "image",
        "shape": (16, 16, 3),
        "names": ["height", "width", "channels"],
    },
}


class Robot:
    """One client with a connection of its own."""

    def __init__(self, port: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self.clock = 100.0

    def call(self, name: str, data: bytes = b"") -> bytes:
        return self.channel.unary_unary(f"/transport.AsyncInference/{name}")(data, timeout=20)

    def stream(self, *parts: bytes) -> bytes:
        return self.channel.stream_unary("/transport.AsyncInference/SendObservations")(
            iter(parts), timeout=20
        )

    def begin(self, features: dict[str, Any] = FEATURES, actions: int = 4) -> None:
        self.call("Ready")
        config = RemotePolicyConfig("act", "anything", features, actions)
        self.call("SendPolicyInstructions", PolicySetup(data=pickle.dumps(config)).SerializeToString())

    def see(self, seed: int, step: int = 0, *, go: bool = True, text: str = "pick", **content: Any) -> None:
        self.clock += 1
        content = {"front": picture(seed), "task": text, "x": float(seed), "y": 0.0, "z": 0.0, **content}
        self.send(pickle.dumps(TimedObservation(self.clock, step, content, go)))

    def send(self, data: bytes) -> None:
        self.stream(ObservationPart(transfer_state=END, data=data).SerializeToString())

    def actions(self) -> list[Any]:
        data = Actions.FromString(self.call("GetActions")).data
        return pickle.loads(data) if data else []


@contextmanager
def served(policy: FakePolicy | None = None, mapping: str = "lerobot", **more: Any) -> Iterator[Any]:
    """Yields a function that connects one more robot, with the service as its attribute."""
    service = fake_service(
        policy or FakePolicy(), traffic=more.pop("traffic", None), limits=more.pop("limits", None)
    )
    server = protocol.LeRobotServer(service, ClientMapping.load(mapping), **{"wait": 0.3, **more})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listener, port = asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    robots: list[Robot] = []

    def connect() -> Robot:
        robots.append(Robot(port))
        return robots[-1]

    connect.service, connect.server, connect.port = service, server, port  # type: ignore[attr-defined]
    try:
        yield connect
    finally:
        for robot in robots:
            robot.channel.close()
        asyncio.run_coroutine_threadsafe(listener.stop(None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        service.engine.drain(5)


def said(seed: int, text: str = "pick") -> np.ndarray:
    """(4, 7) what the fake policy answers to a picture."""
    return expected(Observation(picture(seed), text))


def numbers(actions: list[Any]) -> np.ndarray:
    return np.stack([action.action.numpy() for action in actions])


@contextmanager
def refused(code: grpc.StatusCode, sentence: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError, match=sentence) as caught:
        yield
    assert caught.value.code() is code


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
    with served(policy, wait=15) as connect, ThreadPoolExecutor(8) as threads:
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
            self.depth = observations[0].view.depth
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


# ------------------------------------------------------------------- refusals


def test_a_robot_without_the_mappings_camera_is_refused_when_it_begins() -> None:
    features = {"observation.images.wrist": FEATURES["observation.images.front"]}
    with (
        served() as connect,
        refused(grpc.StatusCode.INVALID_ARGUMENT, "cameras wrist, but the server's mapping 'lerobot'"),
    ):
        connect().begin(features)


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


@pytest.mark.parametrize("call", ["policy", "observation"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(call: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with served() as connect:
        robot = connect()
        robot.begin()
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "names posix.system"):
            if call == "policy":
                setup = PolicySetup(data=pickle.dumps(Hostile()))
                robot.call("SendPolicyInstructions", setup.SerializeToString())
            else:
                robot.send(pickle.dumps(TimedObservation(1.0, 0, {"front": Hostile()})))
        robot.see(1)
        assert robot.actions()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([ObservationPart(transfer_state=MIDDLE, data=b"x")], "before its last part"),
        ([ObservationPart(transfer_state=9, data=b"x")], "the state 9"),
        ([ObservationPart(transfer_state=MIDDLE, data=b"x" * 700)] * 2, "more than 1000 bytes"),
        ([ObservationPart(transfer_state=END, data=b"no pickle")], "no pickle|opcode"),
        ([], "before its last part"),
    ],
)
def test_malformed_and_oversized_observations_are_refused(parts: list[Any], sentence: str) -> None:
    with served(traffic=TrafficLimits(max_message_mb=1000 / 2**20)) as connect:
        robot = connect()
        with refused(grpc.StatusCode.INVALID_ARGUMENT, sentence):
            robot.stream(*(part.SerializeToString() for part in parts))
        robot.begin()


def test_an_observation_that_never_ends_is_given_up() -> None:
    with served(traffic=TrafficLimits(request_timeout=0.3)) as connect, ThreadPoolExecutor() as threads:
        robot = connect()
        go_on = threading.Event()

        def stalling() -> Iterator[bytes]:
            yield ObservationPart(transfer_state=BEGIN, data=b"x").SerializeToString()
            go_on.wait(20)

        call = robot.channel.stream_unary("/transport.AsyncInference/SendObservations")
        waiting = threads.submit(call, stalling(), timeout=20)
        try:
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "did not arrive whole within 0.3 s"):
                waiting.result(10)
        finally:
            go_on.set()
        robot.begin()


@pytest.mark.parametrize("name", ["Ready", "SendPolicyInstructions", "GetActions"])
def test_what_is_no_protobuf_harms_nobody(name: str) -> None:
    with served() as connect:
        robot = connect()
        with pytest.raises(grpc.RpcError):
            robot.call(name, b"\xff\xff\xff\xff")
        robot.begin()
        robot.see(1)
        assert robot.actions()


@pytest.mark.wrong_arrays
@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp": float("nan")},
        {"timestep": -1},
        {"timestep": 2**40},
        {"timestep": "now"},
        {"observation": []},
        {"observation": {"front": picture(1), "task": 5}},
        {"observation": {"front": "a picture", "task": "pick"}},
        {"observation": {"front": np.zeros((16, 16), np.float64), "task": "pick"}},
    ],
    ids=str,
)
def test_fields_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    content = {"front": picture(1), "task": "pick"}
    sent = {"timestamp": 1.0, "timestep": 0, "observation": content, "must_go": True, **fields}
    with served() as connect:
        robot = connect()
        robot.begin()
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "."):
            robot.send(pickle.dumps(TimedObservation(**sent)))
            robot.actions()


def test_keys_are_refused_as_the_client_has_none() -> None:
    service = fake_service(FakePolicy(), access=Access(digests=(b"x" * 32,)))
    with pytest.raises(InputError, match="neither API keys nor TLS"):
        protocol.run(service, options("lerobot"))
    service.engine.drain(5)


def test_a_port_in_use_is_told_in_a_sentence() -> None:
    with served() as connect:
        service = fake_service(FakePolicy(), port=connect.port)
        with pytest.raises(InputError, match="cannot be bound"):
            protocol.run(service, options("lerobot"))
        service.engine.drain(5)


def test_told_to_stop_it_answers_what_it_has_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = fake_service(FakePolicy(0.5), port=port)

    def play() -> np.ndarray:
        robot = Robot(port)
        grpc.channel_ready_future(robot.channel).result(10)
        robot.begin()
        robot.see(1)
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(robot.actions)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)
            answer = numbers(waiting.result(10))
        robot.channel.close()
        return answer

    with ThreadPoolExecutor() as threads:
        playing = threads.submit(play)
        protocol.run(service, options("lerobot"))
        assert np.allclose(playing.result(10), said(1), atol=1e-7)
    assert not service.engine.ready
