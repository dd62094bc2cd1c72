"""Clients of LeRobot's protocol that begin and do not end, repeat themselves, or keep: others go on."""

import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from lerobot_client import Robot, numbers, refused, said, served
from lerobot_stand_in import RemotePolicyConfig, TimedObservation, lerobot

from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.lerobot.uploads import BEGIN, address_of_peer
from spatialvla.serving.lerobot.wire import ObservationPart, PolicySetup

__all__ = ["lerobot"]
pytestmark = pytest.mark.usefixtures("lerobot")


class Stalling:
    """Calls that begin and never end, until they are let go."""

    def __init__(self) -> None:
        self._go_on = threading.Event()
        self._calls: list[Any] = []

    def begin(self, robot: Robot, name: str = "SendObservations") -> None:
        call = robot.channel.stream_unary(f"/transport.AsyncInference/{name}")
        self._calls.append(call.future(self._parts(name), timeout=30))

    def ended(self) -> int:
        return sum(call.done() for call in self._calls)

    def __enter__(self) -> "Stalling":
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        for call in self._calls:
            call.cancel()

    def _parts(self, name: str) -> Iterator[bytes]:
        if name == "SendObservations":
            yield ObservationPart(transfer_state=BEGIN, data=b"x").SerializeToString()
        self._go_on.wait(30)


@pytest.mark.parametrize("name", ["SendObservations", "GetActions", "Ready"])
def test_calls_that_never_end_leave_room_for_those_that_do(name: str) -> None:
    """Sixty of eight connections, where there is room for sixteen: an honest robot is never refused."""
    traffic = TrafficLimits(memory_mb=64, message_timeout=20)
    with served(traffic=traffic) as connect, Stalling() as stalling:
        for _ in range(8):
            robot = connect()
            for _ in range(8):
                stalling.begin(robot, name)
        honest = connect()
        for seed in range(5):
            honest.begin()
            honest.see(seed)
            assert np.allclose(numbers(honest.actions()), said(seed), atol=1e-7)
        deadline = time.monotonic() + 10
        while stalling.ended() < 40:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.slow
def test_beside_a_thousand_open_streams_every_call_of_an_honest_robot_is_answered() -> None:
    with served() as connect, Stalling() as stalling:
        for _ in range(128):
            robot = connect()
            for _ in range(8):
                stalling.begin(robot)
        honest = connect()
        honest.begin()
        waited = []
        for seed in range(117):  # twice as many calls
            began = time.monotonic()
            honest.see(seed)
            assert np.allclose(numbers(honest.actions()), said(seed), atol=1e-7)
            waited.append(time.monotonic() - began)
        assert np.median(waited) < 0.5


def test_one_connection_has_few_calls_at_a_time() -> None:
    """A hundred calls of one connection: those beyond eight wait on its own side."""
    with served() as connect, Stalling() as stalling:
        robot, honest = connect(), connect()
        for _ in range(100):
            stalling.begin(robot)
        honest.begin()
        honest.see(1)
        assert honest.actions()
        assert connect.server._uploads._inbox.held <= 8 * 5 * 2**20
        assert stalling.ended() == 0


def test_observations_that_nobody_asks_about_give_way() -> None:
    """Ten robots leave one of a mebibyte each, where there is room for a few."""
    traffic = TrafficLimits(memory_mb=8)
    image = np.zeros((512, 683, 3), np.uint8)
    with served(traffic=traffic) as connect:
        robots = [connect() for _ in range(10)]
        for robot in robots:
            robot.begin()
            robot.see(0, front=image)
        held = connect.server._uploads._inbox.held
        assert 2**20 < held <= 8 * 2**20
        assert robots[-1].actions(), "the last one is kept"
        assert robots[0].actions() == []
        robots[0].see(1)
        assert robots[0].actions(), "the first one may try again"
        for robot in robots:
            robot.actions()
        assert connect.server._uploads._inbox.held == 0


def test_a_pickle_that_doubles_itself_does_not_stop_the_others() -> None:
    doubled: object = ()
    for _ in range(40):
        doubled = (doubled, doubled)
    config = pickle.dumps(RemotePolicyConfig("act", doubled, {}, 4))  # type: ignore[arg-type]
    seen = pickle.dumps(TimedObservation(1.0, 0, {"front": doubled, "task": doubled}, True))
    with served() as connect:
        bad, honest = connect(), connect()
        honest.begin()
        for _ in range(3):
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "those that it repeats counted each time"):
                bad.call("SendPolicyInstructions", PolicySetup(data=config).SerializeToString())
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "those that it repeats counted each time"):
                bad.send(seen)
            honest.see(1)
            assert honest.actions()


def test_addresses_are_read_from_what_grpc_says() -> None:
    assert address_of_peer("ipv4:127.0.0.1:53412") == "127.0.0.1"
    assert address_of_peer("ipv6:%5B::1%5D:53412") == "%5B::1%5D"
