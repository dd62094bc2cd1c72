"""The client alone, against servers that are absent or answer wrongly."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from websockets.server import ServerProtocol
from websockets.sync.server import serve

from spatialvla_client import (
    AsynchronousLoop,
    Backoff,
    CameraImage,
    Client,
    ClientError,
    Observation,
    ProtocolError,
    Refused,
    RequestTimeout,
    Unavailable,
)
from spatialvla_client.channel import Channel
from spatialvla_client.codec import pack, unpack

QUICK = Backoff(first=0.02, longest=0.1)
SEEN = Observation(np.zeros((16, 16, 3), np.uint8), "put the spoon on the towel")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_no_server_is_an_error_in_time():
    with Client(f"ws://127.0.0.1:{free_port()}", timeout=0.5, backoff=QUICK) as robot:
        began = time.monotonic()
        with pytest.raises(Unavailable, match="cannot be reached"):
            robot.act(SEEN)
        assert 0.2 < time.monotonic() - began < 3


# ----------------------------------------------- servers that do not keep to it

METADATA = pack({"server": "spatialvla", "keys": {"image": "image", "prompt": "instruction"}})
GOOD = {"actions": np.zeros((4, 7)), "tokens": np.zeros((4, 3), int)}


@contextmanager
def bad_server(
    reply: Callable[[dict], bytes | str],
    metadata: bytes | str | Callable[[], bytes] = METADATA,
    largest: int = 2**20,
) -> Iterator[str]:
    def handle(websocket) -> None:
        websocket.send(metadata() if callable(metadata) else metadata)
        for message in websocket:
            websocket.send(reply(unpack(message)))

    server = serve(handle, "127.0.0.1", 0, max_size=largest)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": 99},
        {"request_id": None},
        {"request_id": "1"},
        {"request_id": True},
        {"actions": np.full((4, 7), np.nan)},
        {"actions": np.zeros((4, 6))},
        {"actions": [[0.0] * 7]},
        {"tokens": np.zeros((3, 3), int)},
        {"uncertainty": 3.5},
        {"uncertainty": {"entropy": np.zeros((4, 3))}},
        {"uncertainty": {"entropy": np.zeros((4, 2)), "spread_mm": np.zeros(4)}},
        {"uncertainty": {"entropy": np.zeros((4, 3)), "spread_mm": np.zeros(())}},
    ],
)
def test_an_answer_that_does_not_fit_is_never_returned(changes):
    def reply(message: dict) -> bytes:
        return pack({**GOOD, "request_id": message["request_id"], **changes})

    with bad_server(reply) as url, Client(url) as robot, pytest.raises(ProtocolError):
        robot.act(SEEN)


def test_an_observation_that_is_too_large_is_refused_and_not_sent_again():
    greeted = []

    def greeting() -> bytes:
        greeted.append(True)
        return METADATA

    large = Observation(np.zeros((64, 64, 3), np.uint8), "push")
    good = pack({**GOOD, "request_id": 2})
    with bad_server(lambda message: good, greeting, largest=5000) as url, Client(url) as robot:
        with pytest.raises(Refused, match="larger than the server takes; send smaller pictures") as refused:
            robot.act(large)
        assert (refused.value.outcome, len(greeted)) == ("bad_input", 1)
        assert len(robot.act(SEEN).actions) == 4


def test_garbage_is_an_error():
    with (
        bad_server(lambda message: b"\xc1") as url,
        Client(url) as robot,
        pytest.raises(ProtocolError, match="msgpack"),
    ):
        robot.act(SEEN)


def test_servers_of_another_kind_are_told_apart():
    for metadata in (pack({}), pack({"server": "spatialvla"})):
        with (
            bad_server(lambda message: b"", metadata) as url,
            Client(url) as robot,
            pytest.raises(ProtocolError, match="another kind"),
        ):
            robot.act(SEEN)


@pytest.mark.parametrize("cameras", [[{"name": "wrist"}], ["wrist"], [{"name": "wrist", "keys": 3}], 7])
def test_a_server_that_does_not_say_its_cameras_names_is_an_error(cameras):
    keys = {"image": "image", "prompt": "instruction"}
    metadata = pack({"server": "spatialvla", "keys": keys, "cameras": cameras})
    wrist = {"wrist": CameraImage(SEEN.image)}
    with (
        bad_server(lambda message: b"", metadata) as url,
        Client(url) as robot,
        pytest.raises(ProtocolError, match="does not say what it calls its cameras"),
    ):
        robot.act(Observation(SEEN.image, "pick", images=wrist))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ({"wrist": None}, "camera 'wrist' has no picture.*leave out cameras that are missing"),
        ({"wrist": SEEN.image}, r"write \{'wrist': CameraImage\(picture\)\}"),
        ({"wrist": CameraImage(None)}, "camera 'wrist' has no picture"),
        ([CameraImage(SEEN.image)], "CameraImages by name, not a list"),
    ],
)
def test_a_camera_without_a_picture_is_refused_in_words(images, sentence):
    cameras = [{"name": "wrist", "keys": {"image": "wrist"}}]
    metadata = pack({"server": "spatialvla", "keys": {"image": "i", "prompt": "p"}, "cameras": cameras})
    good = pack({**GOOD, "request_id": 2})  # the refused one has used up number 1
    with bad_server(lambda message: good, metadata) as url, Client(url) as robot:
        with pytest.raises(Refused, match=sentence) as refused:
            robot.act(Observation(SEEN.image, "push", images=images))
        assert refused.value.outcome == "bad_input"
        assert len(robot.act(SEEN).actions) == 4, "and the connection goes on"


def test_a_server_that_names_no_cameras_has_one():
    def reply(message: dict) -> bytes:
        return pack({**GOOD, "request_id": message["request_id"]})

    with bad_server(reply) as url, Client(url) as robot:
        with pytest.raises(Refused, match="does not look through a camera 'wrist', but through one"):
            robot.act(Observation(SEEN.image, "pick", images={"wrist": CameraImage(SEEN.image)}))
        robot.act(SEEN)


# ------------------------------------------------- servers that no longer listen

LARGE = Observation(np.zeros((2000, 4000, 3), np.uint8), "push")  # more than the system buffers


@contextmanager
def stalled_server(greeting: bytes | None = METADATA) -> Iterator[str]:
    """Greets whoever comes and then reads nothing more, as a machine that hangs does."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    held = []

    def greet() -> None:
        while True:
            connection, _ = listener.accept()
            held.append(connection)
            protocol = ServerProtocol()
            while not (requests := protocol.events_received()):
                protocol.receive_data(connection.recv(2**12))
            protocol.send_response(protocol.accept(requests[0]))
            if greeting is not None:
                protocol.send_binary(greeting)
            connection.sendall(b"".join(protocol.data_to_send()))

    threading.Thread(target=greet, daemon=True).start()
    yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    for connection in held:
        connection.close()


def in_time(call: Callable[[], object]) -> object:
    """What a call gives or raises; fails where it hangs."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert results, "it hangs"
    return results[0]


def test_a_server_that_reads_nothing_is_a_timeout():
    with stalled_server() as url:
        robot = Client(url, timeout=0.5)
        error = in_time(lambda: robot.act(LARGE))
        assert isinstance(error, RequestTimeout)
        assert "did not read the request within 0.5 s" in str(error)
        assert isinstance(in_time(lambda: robot.act(SEEN)), RequestTimeout), "on a new connection"
        in_time(robot.close)


def test_small_pictures_that_nobody_reads_end_in_timeouts_too():
    small = Observation(np.zeros((480, 640, 3), np.uint8), "push")
    with stalled_server() as url:
        robot = Client(url, timeout=0.2)
        assert all(isinstance(in_time(lambda: robot.act(small)), RequestTimeout) for _ in range(15))
        in_time(robot.close)


def test_a_server_that_never_greets_is_unavailable_in_time():
    with stalled_server(greeting=None) as url:
        robot = Client(url, timeout=0.5)
        began = time.monotonic()
        assert isinstance(in_time(lambda: robot.act(SEEN)), Unavailable)
        assert time.monotonic() - began < 5


def test_a_program_stopped_before_the_greeting_can_go_on(monkeypatch):
    interrupted = []
    receive = Channel.receive

    def stop_once(self, deadline: float) -> bytes | str:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return receive(self, deadline)

    monkeypatch.setattr(Channel, "receive", stop_once)
    good = pack({**GOOD, "request_id": 1})
    with bad_server(lambda message: good) as url, Client(url) as robot:
        with pytest.raises(KeyboardInterrupt):
            robot.act(SEEN)
        assert len(robot.act(SEEN).actions) == 4


def test_the_loop_can_be_left_while_the_server_reads_nothing():
    with stalled_server() as url:
        robot = Client(url, timeout=0.5)
        loop = AsynchronousLoop(robot.infer, control_hz=20)
        assert isinstance(in_time(lambda: loop.act(lambda: LARGE)), ClientError)
        in_time(loop.reset)
        in_time(loop.close)


# ----------------------------------------------------------------- the package

FORBIDDEN = ("torch", "transformers", "PIL", "spatialvla", "scipy", "prometheus_client", "yaml")


def test_it_needs_numpy_msgpack_and_websockets_alone():
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import spatialvla_client
for name in spatialvla_client.__all__:
    getattr(spatialvla_client, name)
assert not set(sys.modules) & set({FORBIDDEN!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_the_light_distribution_installs_alone(tmp_path):
    client = shutil.copytree(Path(__file__).parents[1], tmp_path / "client")  # building leaves files
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", client], check=True)
    found = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    )
    names = {line.partition("==")[0].lower() for line in found.stdout.splitlines()}
    assert names - {"pip", "setuptools"} == {"spatialvla-client", "numpy", "msgpack", "websockets"}
    subprocess.run(
        [python, "-c", "from spatialvla_client import Client, AsynchronousLoop"], check=True, cwd=tmp_path
    )
