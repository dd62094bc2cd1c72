"""Hostile messages to a running server: an error for the sender, and nothing for anybody else."""

import os
import random
import socket
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from fake_policy import FakePolicy, expected
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from running import K, Running, fake_service, plain, serving
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.types import Observation
from spatialvla_client.codec import pack, unpack

pytestmark = pytest.mark.wrong_arrays

MANY = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
ANY_ARRAY = arrays(
    st.sampled_from(["u1", "i8", "f4", "f8", "?"]),
    array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
)
ANY_VALUE = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=20) | ANY_ARRAY
)
ANY_VALUE = (
    ANY_VALUE | st.lists(ANY_VALUE, max_size=3) | st.dictionaries(st.text(max_size=5), ANY_VALUE, max_size=2)
)
KEYS = [
    "image",
    "instruction",
    "depth",
    "intrinsics",
    "position",
    "committed",
    "reset",
    "request_id",
    "timeout",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    traffic = TrafficLimits(max_message_mb=1, rate=1e6, burst=10**6)
    with serving(fake_service(FakePolicy(), traffic=traffic)) as running:
        yield running


@pytest.fixture(scope="module")
def bystander(server) -> WebsocketClientPolicy:
    """Connected all the while."""
    return WebsocketClientPolicy(server.url)


def unaffected(bystander: WebsocketClientPolicy) -> None:
    seed = random.randrange(1000)
    message = plain(seed)
    wanted = expected(Observation(message["image"], message["instruction"]))
    assert np.array_equal(bystander.infer(message)["actions"], wanted)


def send(server: Running, data: bytes) -> object:
    """What the server says to one message of a fresh connection; None where it only hangs up."""
    with connect(server.url, compression=None, max_size=None) as websocket:
        websocket.recv(5)
        websocket.send(data)
        try:
            return websocket.recv(5)
        except ConnectionClosed:
            return None


def no_traceback(reply: object) -> None:
    if isinstance(reply, str):
        assert reply
        assert "Traceback" not in reply
        assert "site-packages" not in reply


@given(changes=st.dictionaries(st.sampled_from(KEYS), ANY_VALUE, max_size=4))
@MANY
def test_any_values_under_the_known_keys(server, bystander, changes):
    reply = send(server, pack({**plain(1), **changes}))
    no_traceback(reply)
    if isinstance(reply, bytes):
        answer = unpack(reply)
        assert ("actions" in answer) != ("error" in answer)
        if "actions" in answer:
            assert np.isfinite(answer["actions"]).all()
    unaffected(bystander)


@given(data=st.binary(max_size=300))
@MANY
def test_any_bytes(server, bystander, data):
    assert isinstance(send(server, data), str)
    unaffected(bystander)


@given(data=st.data())
@MANY
def test_damaged_and_truncated_observations(server, bystander, data):
    packed = bytearray(pack(plain(2, depth=np.ones((16, 16)), intrinsics=K)))
    for _ in range(data.draw(st.integers(0, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    reply = send(server, bytes(packed[: data.draw(st.integers(1, len(packed)))]))
    no_traceback(reply)
    unaffected(bystander)


@given(data=st.binary(min_size=1, max_size=200), upgraded=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_that_are_no_websocket(server, bystander, data, upgraded):
    """Before the handshake and after it, and then the line goes dead."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as line:
        if upgraded:
            line.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            line.recv(65536)
        line.sendall(data)
    unaffected(bystander)


def test_oversized_messages_do_not_stay_in_memory(server, bystander):
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    for _ in range(20):
        send(server, bytes(4 * 2**20))
    unaffected(bystander)
    assert process.memory_info().rss - before < 64 * 2**20


def test_nothing_is_left_behind(server, bystander):
    """After all of the above."""
    unaffected(bystander)
    assert server.value("queued_requests") == 0
    assert server.value("requests_total", outcome="error") == 0, "nothing was unforeseen"
