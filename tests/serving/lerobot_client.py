"""A robot client of LeRobot's protocol, and our server for it, in one process."""

import asyncio
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from fake_policy import FakePolicy, expected
from lerobot_stand_in import RemotePolicyConfig, TimedObservation
from running import fake_service, picture

from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.lerobot import server as protocol
from spatialvla.serving.lerobot.uploads import END
from spatialvla.serving.lerobot.wire import Actions, ObservationPart, PolicySetup
from spatialvla.types import Observation

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
    of_service = ("traffic", "limits", "calibration", "require_all", "watchers", "stop_above")
    options = {name: more.pop(name) for name in of_service if name in more}
    service = fake_service(policy or FakePolicy(), **options)
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
