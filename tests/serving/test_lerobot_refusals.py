"""What the server for LeRobot's robot client refuses, and how it ends."""

import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_policy import FakePolicy
from lerobot_client import FEATURES, Robot, numbers, refused, said, served
from lerobot_stand_in import TimedObservation, lerobot
from running import fake_service, options, picture

from spatialvla.errors import InputError
from spatialvla.serving.guard.access import Access
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.lerobot import server as protocol
from spatialvla.serving.lerobot.uploads import BEGIN, END, MIDDLE
from spatialvla.serving.lerobot.wire import ObservationPart, PolicySetup

__all__ = ["lerobot"]  # a fixture
pytestmark = pytest.mark.usefixtures("lerobot")


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
    with served(traffic=TrafficLimits(message_timeout=0.3)) as connect, ThreadPoolExecutor() as threads:
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
