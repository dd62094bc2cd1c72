"""The openpi protocol with openpi's own client, and its faults: whoever misbehaves, the others go on."""

import re
import socket
import threading
import time

import msgpack
import numpy as np
import pytest
from fake_policy import SIZE, TOKENS, FakePolicy, expected
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_clients import answer_to, client_of, raw
from raw_websocket import frame
from running import K, fake_service, picture, plain, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from spatialvla.errors import InputError
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.openpi.server import OpenPiServer
from spatialvla.types import Observation
from spatialvla_client.codec import pack, unpack

# --------------------------------------------------------------- the protocol


def test_openpis_client_gets_its_actions(server):
    client = client_of(server)
    metadata = client.get_server_metadata()
    assert metadata["chunk"] == 4
    assert metadata["keys"]["image"] == "image"
    first = client.infer(plain(3))
    assert np.array_equal(first["actions"], answer_to(plain(3)))
    assert first["tokens"].shape == (4, 3)
    assert first["policy_timing"]["infer_ms"] >= 0
    assert "prev_total_ms" not in first["server_timing"]
    second = client.infer(plain(4))
    assert np.array_equal(second["actions"], answer_to(plain(4)))
    assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"] > 0


def test_openpis_broker_hands_out_one_step_at_a_time(server):
    broker = ActionChunkBroker(client_of(server), action_horizon=4)
    steps = [broker.infer(plain(9))["actions"] for _ in range(4)]
    assert np.array_equal(np.stack(steps), answer_to(plain(9)))


def libero(seed: int) -> dict:
    """What openpi's LIBERO example sends."""
    return {
        "observation/image": picture(seed),
        "observation/wrist_image": picture(seed + 1),
        "observation/state": np.zeros(8),
        "prompt": "put the bowl on the plate",
    }


def test_liberos_keys_and_gripper(policy):
    with serving(fake_service(policy), "libero", pad_to=5) as running:
        client = client_of(running)
        assert client.get_server_metadata()["horizon"] == 5
        result = client.infer(libero(5))
        wanted = expected(Observation(picture(5), "put the bowl on the plate"))
        assert np.array_equal(result["actions"][:4, :6], wanted[:, :6])
        assert np.allclose(result["actions"][:4, 6], 1 - 2 * wanted[:, 6]), "-1 opens, +1 closes"
        assert np.array_equal(result["actions"][4, :6], np.zeros(6)), "a step of padding stands still"
        assert result["actions"][4, 6] == result["actions"][3, 6]
        assert result["tokens"][4].tolist() == [-1, -1, -1]


def test_droids_keys(policy):
    with serving(fake_service(policy), "droid") as running:
        message = {
            "observation/exterior_image_1_left": picture(8),
            "observation/wrist_image_left": picture(9),
            "observation/joint_position": np.zeros(7),
            "observation/gripper_position": np.zeros(1),
            "prompt": "close the drawer",
        }
        actions = client_of(running).infer(message)["actions"]
        wanted = expected(Observation(picture(8), "close the drawer"))
        assert np.allclose(actions[:, 6], 1 - wanted[:, 6]), "1 closes"


def test_optional_keys(server, policy):
    with raw(server) as websocket:
        websocket.send(pack(plain(1, request_id="a1", intrinsics=K, depth=np.ones((SIZE, SIZE)))))
        assert unpack(websocket.recv())["request_id"] == "a1"
        committed = np.array([TOKENS])
        websocket.send(pack(plain(2, request_id=2, committed=committed, reset=True)))
        reply = unpack(websocket.recv())
        assert reply["request_id"] == 2
        assert len(reply["actions"]) == 4
        assert policy.committed[-1][0].tolist() == committed.tolist()
        assert [executor.resets for executor in policy.executors] == [1]


def test_each_connection_is_an_episode_of_its_own(server, policy):
    for _ in range(3):
        client_of(server).infer(plain(1))
    assert len(policy.executors) == 3


@pytest.mark.wrong_arrays
@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ({"image": picture(1)}, "lacks 'instruction'; it has image"),
        ({"instruction": "x"}, "lacks 'image'"),
        ({"image": [1, 2], "instruction": "x"}, "must be an array"),
        ({"image": picture(1), "instruction": 7}, "must be a string"),
        ({"image": picture(1), "instruction": " "}, "instruction is empty"),
        ({"image": picture(1), "instruction": "x" * 2000}, "2000 characters"),
        ({"image": picture(1).astype(np.float32), "instruction": "x"}, "must be uint8"),
        ({"image": np.zeros((4, 4, 7), np.uint8), "instruction": "x"}, r"shape \(H, W, 3\)"),
        ({"image": np.zeros((3000, 2, 3), np.uint8), "instruction": "x"}, "sides of 1 to 2048"),
        (plain(1, intrinsics=np.full((3, 3), np.nan)), "NaN"),
        (plain(1, intrinsics=["a"]), "array of numbers"),
        (plain(1, intrinsics=np.eye(3)), "focal length"),
        (plain(1, depth=np.zeros((4, 4))), "no reading"),
        (plain(1, depth=np.full((4, 4), 900.0)), "millimeters"),
        (plain(1, committed=TOKENS[None, ::-1]), "where a translation token belongs"),
        (plain(1, committed=np.zeros((9, 3), int)), "has 4 steps of 3 tokens"),
        (plain(1, committed=1), r"array \(P, 3\)"),
        (plain(1, position=np.zeros(2)), "entries"),
        (plain(1, timeout=-1), "positive number"),
        (plain(1, request_id=[1]), "'request_id'"),
    ],
)
def test_a_bad_observation_is_an_error_by_the_protocol(server, message, sentence):
    with raw(server) as websocket:
        websocket.send(pack(message))
        reply = websocket.recv()
        assert isinstance(reply, str)
        assert re.search(sentence, reply), reply
        with pytest.raises(ConnectionClosed) as closed:
            websocket.recv(5)
        assert closed.value.rcvd.code == 1011
    assert np.array_equal(client_of(server).infer(plain(2))["actions"], answer_to(plain(2)))


def test_openpis_client_raises_our_sentence(server):
    with pytest.raises(RuntimeError, match="lacks 'image'"):
        client_of(server).infer({"observation/image": picture(1), "prompt": "x"})


def test_a_numbered_request_may_fail_and_the_connection_goes_on(server):
    with raw(server) as websocket:
        websocket.send(pack({"request_id": 1, "image": picture(1)}))
        refused = unpack(websocket.recv())
        assert refused["request_id"] == 1
        assert refused["outcome"] == "bad_input"
        websocket.send(pack(plain(1, request_id=2)))
        assert np.array_equal(unpack(websocket.recv())["actions"], answer_to(plain(1)))


@pytest.mark.parametrize(
    ("text", "outcome"), [("nan", "unsafe"), ("crash", "error"), ("refuse", "bad_input")]
)
def test_a_failing_policy_says_why_and_nothing_more(server, text, outcome):
    with raw(server) as websocket:
        websocket.send(pack({"request_id": 1, "image": picture(1), "instruction": text}))
        refused = unpack(websocket.recv())
        assert refused["outcome"] == outcome
        assert "actions" not in refused
        assert "secret" not in refused["error"]
        assert "Traceback" not in refused["error"]


# -------------------------------------------------------------------- limits


def test_limits_hold_for_what_leaves_the_server(policy):
    limits = Limits.load("franka")
    with serving(fake_service(policy, limits=limits)) as running:
        actions = client_of(running).infer(plain(200, position=[0.5, 0, 0.4]))["actions"]
        assert (np.linalg.norm(actions[:, :3], axis=1) <= 0.02 + 1e-12).all()
        assert running.value("clamped_steps_total", limit="translation") == 4


def test_a_workspace_holds_where_the_client_tells_the_position(policy):
    limits = Limits.load("franka")
    with serving(fake_service(policy, limits=limits)) as running:
        corner = limits.workspace.high
        actions = client_of(running).infer(plain(200, position=corner))["actions"]
        assert np.allclose(actions[:, :3].clip(0), 0)
        assert running.value("clamped_steps_total", limit="workspace") == 4


def test_a_workspace_without_the_position_sends_nothing(policy):
    with serving(fake_service(policy, limits=Limits.load("franka"))) as running, raw(running) as websocket:
        websocket.send(pack(plain(200, request_id=1)))
        refused = unpack(websocket.recv())
        assert "actions" not in refused
        assert "does not tell its position" in refused["error"]
        websocket.send(pack(plain(200, request_id=2, position=[0.5, 0, 0.4])))
        assert len(unpack(websocket.recv())["actions"]) == 4


def test_a_workspace_that_the_mapping_cannot_keep_does_not_start(policy, tmp_path):
    (tmp_path / "blind.yaml").write_text("image: image\nprompt: instruction\n")
    mapping = ClientMapping.load(str(tmp_path / "blind.yaml"))
    with pytest.raises(InputError, match="add state and position"):
        OpenPiServer(fake_service(policy, limits=Limits.load("franka")), mapping)


def test_a_message_too_large_is_refused_unread(policy, caplog):
    with serving(fake_service(policy, traffic=TrafficLimits(max_message_mb=10_000 / 2**20))) as running:
        with raw(running) as websocket:
            websocket.send(b"x" * 20_000)
            with pytest.raises(ConnectionClosed) as closed:
                websocket.recv(5)
            assert closed.value.rcvd.code == 1009
        assert client_of(running).infer(plain(2))
        assert running.value("refused_connections_total", reason="too_large") == 1
    (told,) = [line for line in caplog.messages if "refused" in line]
    assert "(too_large): its message is larger than 0.00953674 MB; it may send smaller pictures" in told


def test_connections_are_counted(policy):
    with serving(fake_service(policy, traffic=TrafficLimits(max_connections=2))) as running:
        first, second = client_of(running), client_of(running)
        with pytest.raises(InvalidStatus, match="503"):
            client_of(running)
        assert running.value("refused_connections_total", reason="too_many") == 1
        second._ws.close()
        deadline = time.monotonic() + 5
        while running.value("connections") == 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert client_of(running).infer(plain(2))
        assert first.infer(plain(3))


def test_a_client_over_its_rate_is_slowed_down(policy):
    with serving(fake_service(policy, traffic=TrafficLimits(rate=50, burst=1))) as running:
        client = client_of(running)
        began = time.monotonic()
        for number in range(6):
            client.infer(plain(number))
        assert time.monotonic() - began > 5 / 50 * 0.9


def test_a_full_queue_answers_busy_at_once(policy):
    settings = EngineSettings(max_queue=1, max_batch=1, threads=4)
    with serving(fake_service(policy, settings=settings)) as running:
        policy.gate.clear()
        sockets = [raw(running) for _ in range(3)]
        for number, websocket in enumerate(sockets[:2]):
            websocket.send(pack(plain(number, request_id=number)))
            while running.value("stage_seconds_count", stage="prepare") <= number:
                time.sleep(0.005)
            if number == 0:
                while running.value("queued_requests"):
                    time.sleep(0.005)
        sockets[2].send(pack(plain(2, request_id=2)))
        assert unpack(sockets[2].recv(5))["outcome"] == "busy"
        policy.gate.set()
        for number, websocket in enumerate(sockets[:2]):
            assert unpack(websocket.recv(5))["request_id"] == number
            websocket.close()
        sockets[2].close()


def test_a_silent_client_is_let_go(policy):
    with (
        serving(fake_service(policy, traffic=TrafficLimits(idle_timeout=0.2))) as running,
        raw(running) as websocket,
    ):
        with pytest.raises(ConnectionClosed):
            websocket.recv(5)
        assert running.value("refused_connections_total", reason="timed_out") == 1


# -------------------------------------------------------------------- faults


def test_no_answer_is_swapped(server):
    """Many clients at a time, each with pictures of its own."""
    failures = []

    def client(number: int) -> None:
        own = client_of(server)
        for step in range(15):
            message = plain(1000 * number + step)
            if not np.array_equal(own.infer(message)["actions"], answer_to(message)):
                failures.append((number, step))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert server.value("requests_total", outcome="ok") == 12 * 15
    assert server.value("batch_size_count") < 12 * 15, "some of them shared a batch"


def test_clients_that_die_in_mid_message_leave_no_trace(server, policy):
    survivor = client_of(server)
    policy.gate.clear()
    for number in range(5):
        websocket = raw(server)
        websocket.send(pack(plain(number)))
        half = raw(server)
        half.socket.sendall(b"\x82\xfe\xff\xff" + b"1234" + b"x" * 100)  # a frame of 65,535 bytes, cut off
        for dying in (websocket, half):
            dying.socket.shutdown(socket.SHUT_RDWR)
            dying.socket.close()
    time.sleep(0.2)
    policy.gate.set()
    assert np.array_equal(survivor.infer(plain(77))["actions"], answer_to(plain(77)))
    deadline = time.monotonic() + 10
    while server.value("connections") > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.value("connections") == 1
    assert server.value("queued_requests") == 0


def test_one_that_floods_does_not_starve_the_others(policy):
    policy.seconds = 0.01
    with serving(fake_service(policy)) as running:
        flood = raw(running)
        stop = threading.Event()

        def pour() -> None:
            number = 0
            try:
                while not stop.is_set():
                    flood.send(pack(plain(number)))
                    number += 1
            except (ConnectionClosed, OSError):
                pass

        thread = threading.Thread(target=pour, daemon=True)
        thread.start()
        quiet = client_of(running)
        for number in range(10):
            began = time.monotonic()
            assert np.array_equal(quiet.infer(plain(number))["actions"], answer_to(plain(number)))
            assert time.monotonic() - began < 2
        stop.set()
        flood.socket.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_reader_that_stalls_is_disconnected(policy):
    """It asks and asks and never reads an answer, until the buffers between are full."""
    traffic = TrafficLimits(send_timeout=0.3, rate=1e6, burst=10**6)
    with serving(fake_service(policy, traffic=traffic), pad_to=20_000) as running:
        stalled = socket.create_connection(("127.0.0.1", running.port))
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        body = pack(plain(1))
        frame = b"\x82\xfe" + len(body).to_bytes(2, "big") + bytes(4) + body
        stalled.settimeout(0.2)
        deadline = time.monotonic() + 20
        while not running.value("refused_connections_total", reason="timed_out"):
            assert time.monotonic() < deadline
            try:
                stalled.sendall(frame)
            except TimeoutError:
                pass
            except OSError:
                time.sleep(0.05)
        assert np.array_equal(client_of(running).infer(plain(2))["actions"][:4], answer_to(plain(2)))
        stalled.close()


def test_text_and_garbage_are_answered_with_an_error(server):
    for message in ("hello", b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb({1: 2}, default=str)):
        with raw(server) as websocket:
            websocket.send(message)
            assert isinstance(websocket.recv(5), str)
    assert client_of(server).infer(plain(5))


def test_a_page_in_a_browser_cannot_reach_the_robot(server):
    with pytest.raises(InvalidStatus, match="403"):
        connect(server.url, origin="https://example.org").__enter__()


# ----------------------------------------------------------------------- time


def test_an_answer_that_comes_later_than_its_client_waits_is_not_sent():
    with serving(fake_service(FakePolicy(seconds=0.4))) as running, raw(running) as websocket:
        websocket.send(pack(plain(1, timeout=0.1, request_id=1)))
        told = unpack(websocket.recv(5))
        assert (told["outcome"], told["request_id"]) == ("stale", 1)
        assert "actions" not in told
        assert running.value("requests_total", outcome="stale") == 1
        websocket.send(pack(plain(2, timeout=5.0, request_id=2)))
        assert "actions" in unpack(websocket.recv(5))


def test_a_message_that_waits_behind_others_of_its_client_grows_old():
    service = fake_service(FakePolicy(seconds=0.3), traffic=TrafficLimits(request_timeout=0.75))
    with serving(service) as running, raw(running) as websocket:
        # In one piece: what the server leaves with the operating system has no known arrival.
        websocket.socket.sendall(
            b"".join(frame(pack(plain(number, request_id=number))) for number in range(4))
        )
        told = [unpack(websocket.recv(5)) for _ in range(4)]
    assert [answer["request_id"] for answer in told] == [0, 1, 2, 3]
    assert "actions" in told[0]
    assert told[3]["outcome"] == "stale", "its picture is more than a second old"


@pytest.mark.parametrize("reset", [1, "true", [], None])
def test_a_reset_is_true_or_false(server, reset):
    with raw(server) as websocket:
        websocket.send(pack(plain(1, request_id=1, reset=reset)))
        assert "'reset' must be true or false" in unpack(websocket.recv(5))["error"]
        for right in (True, False, np.True_, np.False_):
            websocket.send(pack(plain(1, request_id=2, reset=right)))
            assert "actions" in unpack(websocket.recv(5))
