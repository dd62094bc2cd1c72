"""Clients that are let in and then flood, stall or hold back: what they take is bounded, and others go on."""

import contextlib
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import pytest
from fake_policy import FakePolicy
from raw_websocket import frame, is_closed, open_raw
from running import Running, fake_service, plain, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.failures import Busy
from spatialvla.serving.guard.access import Access
from spatialvla.serving.guard.inbox import Inbox
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.guard.websocket import Door, address_of
from spatialvla.serving.status_pages import pages
from spatialvla_client.codec import pack, unpack

FAST = TrafficLimits(send_timeout=0.2)  # does not wait for long for clients that do not close


def honest(running: Running) -> float:
    """Seconds of an honest client's request, with its connection."""
    began = time.monotonic()
    with connect(running.url, compression=None) as client:
        client.recv(10)
        client.send(pack(plain(1)))
        assert "actions" in unpack(client.recv(10))
    return time.monotonic() - began


def send_until_refused(client: socket.socket, piece: bytes, times: int) -> None:
    """Fails where all of it can be sent."""
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            client.sendall(piece)
        pytest.fail(f"{times * len(piece)} bytes were taken")


def until(happened: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def resident() -> int:
    """Bytes of this process, in which the server runs, too."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_pongs_that_nobody_reads_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spatialvla.serving.guard.websocket._BURST_OF_PINGS", 10**9)
    with serving(fake_service(FakePolicy())) as running:
        before = resident()
        deaf = open_raw(running.port)
        send_until_refused(deaf, frame(b"x" * 125, opcode=9) * 1000, 500)
        assert running.value("refused_connections_total", reason="reads_nothing") == 1
        assert resident() - before < 50 * 2**20
        assert honest(running) < 5


def test_pings_that_are_read_are_answered_and_kept_nowhere() -> None:
    with serving(fake_service(FakePolicy())) as running:
        client = open_raw(running.port)
        for _ in range(20):
            client.sendall(frame(b"ping", opcode=9) * 40)
            client.recv(2**16)
        client.sendall(frame(pack(plain(1, request_id=7))))
        until(lambda: running.value("requests_total", outcome="ok") == 1)
        client.close()


def test_a_flood_of_pings_ends_the_connection() -> None:
    with serving(fake_service(FakePolicy())) as running:
        client = open_raw(running.port)
        with contextlib.suppress(ConnectionError):
            client.sendall(frame(b"ping", opcode=9) * 10_000)
        assert is_closed(client, 5)
        assert running.value("refused_connections_total", reason="pings") == 1
        assert honest(running) < 5


@pytest.mark.parametrize("pieces", ["one frame", "fragments"])
def test_unfinished_messages_share_a_budget(pieces: str) -> None:
    """Twenty clients hold 1.9 MiB each and send no end; eight MiB are there for all."""
    traffic = TrafficLimits(max_message_mb=2, memory_mb=8)
    with serving(fake_service(FakePolicy(), traffic=traffic)) as running:
        clients = [open_raw(running.port) for _ in range(20)]
        body = bytes(int(1.9 * 2**20))
        for client in clients:
            with contextlib.suppress(OSError):
                if pieces == "one frame":
                    client.sendall(frame(body, announced=2 * 2**20))
                else:
                    client.sendall(frame(body, last=False))
        until(lambda: running.value("refused_connections_total", reason="memory") >= 16)
        assert honest(running) < 5
        assert sum(not is_closed(client, 0.1) for client in clients) <= 4
        for client in clients:
            client.close()


def test_a_message_of_a_million_fragments_takes_no_more_than_the_budget() -> None:
    traffic = replace(FAST, max_message_mb=16, memory_mb=8)
    with serving(fake_service(FakePolicy(), traffic=traffic)) as running:
        client = open_raw(running.port)
        client.sendall(frame(b"x", last=False))
        send_until_refused(client, frame(b"x", opcode=0, last=False) * 10_000, 100)
        assert honest(running) < 5


def test_a_message_has_to_become_whole_in_time() -> None:
    traffic = replace(FAST, message_timeout=0.3)
    with serving(fake_service(FakePolicy(), traffic=traffic)) as running:
        slow, idle = open_raw(running.port), open_raw(running.port)
        slow.sendall(frame(b"abc", announced=1000))
        assert is_closed(slow, 5)
        assert running.value("refused_connections_total", reason="unfinished_message") == 1
        idle.sendall(frame(pack(plain(1))))
        assert idle.recv(100), "one that is silent between messages stays"


def test_a_slow_model_is_not_the_clients_fault() -> None:
    """What has begun of a second message has its whole time from the first's answer on."""
    policy = FakePolicy(seconds=2.9)
    with serving(fake_service(policy, traffic=replace(FAST, message_timeout=1))) as running:
        client = open_raw(running.port)
        second = frame(pack(plain(2)))
        client.sendall(frame(pack(plain(1))) + second[:100])
        assert client.recv(2**16), "the answer to the first"
        time.sleep(0.4)
        client.sendall(second[100:])
        assert client.recv(2**16), "the answer to the second, whose beginning waited for the model"


def test_everything_held_is_let_go_of() -> None:
    doors = []
    original = Door.__init__

    def remember(self: Door, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        doors.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Door, "__init__", remember)
        with serving(fake_service(FakePolicy())) as running:
            for number in range(20):
                client = open_raw(running.port)
                client.sendall(frame(pack(plain(number)))[: None if number % 2 else -5])
                if number % 2:
                    client.recv(2**16)
                client.sendall(frame(b"ping", opcode=9))
                client.close()
            assert honest(running) < 5
            (door,) = doors
            until(lambda: door.inbox.held == 0 and not door.connections)


def test_two_hundred_that_flood_do_not_starve_an_honest_client() -> None:
    """All of one address, each asking again at once, with a queue that they alone could fill."""
    policy = FakePolicy(seconds=0.02)
    settings = EngineSettings(max_batch=16)
    stop = threading.Event()
    with serving(fake_service(policy, settings=settings, traffic=TrafficLimits(rate=1e6))) as running:
        flood = [open_raw(running.port) for _ in range(200)]
        message = frame(pack(plain(1, request_id=1)))

        def pour() -> None:
            while not stop.is_set():
                for client in flood:
                    client.setblocking(False)
                    with contextlib.suppress(OSError):
                        client.sendall(message)
                    with contextlib.suppress(OSError):
                        client.recv(2**20)

        thread = threading.Thread(target=pour)
        thread.start()
        until(lambda: running.value("queued_requests") > 100)
        client = connect(running.url, compression=None).__enter__()
        client.recv()
        answered = 0
        for number in range(5):
            client.send(pack(plain(number, request_id=number)))
            answered += "actions" in unpack(client.recv(20))
        stop.set()
        thread.join()
        assert answered == 5
        for opened in flood:
            opened.close()


@pytest.mark.parametrize("apart", ["address", "key"])
def test_of_two_addresses_or_keys_each_gets_its_turns(apart: str) -> None:
    """Forty wait from one; the one of another is in the next batch of four."""
    policy = FakePolicy()
    settings = EngineSettings(max_batch=4, max_queue=41)
    access = Access(tuple(sha256(key.encode()).digest() for key in ("first", "second")))
    with serving(fake_service(policy, settings=settings, access=access)) as running:
        policy.gate.clear()
        flood = [open_raw(running.port, address="127.0.0.2", key="first") for _ in range(41)]
        for client in flood:
            client.sendall(frame(pack(plain(1, request_id=1))))
        until(lambda: running.value("queued_requests") >= 37)
        where = {"address": "127.0.0.3"} if apart == "address" else {"address": "127.0.0.2"}
        other = open_raw(running.port, **where, key="first" if apart == "address" else "second")
        other.sendall(frame(pack({**plain(2, request_id=2), "instruction": "honest"})))
        until(lambda: running.value("stage_seconds_count", stage="prepare") == 42)
        policy.gate.set()
        until(lambda: len(policy.batches) >= 2)
        assert "honest" in policy.batches[1]
        for client in (*flood, other):
            client.close()


def test_an_address_that_fills_the_queue_makes_room_for_another() -> None:
    policy = FakePolicy()
    settings = EngineSettings(max_batch=1, max_queue=4)
    with serving(fake_service(policy, settings=settings)) as running:
        policy.gate.clear()
        flood = [open_raw(running.port, address="127.0.0.2") for _ in range(9)]
        message = frame(pack(plain(1, request_id=1)))
        flood[0].sendall(message)
        until(lambda: running.value("stage_seconds_count", stage="prepare") == 1)
        until(lambda: running.value("queued_requests") == 0)
        for client in flood[1:]:
            client.sendall(message)
        until(lambda: running.value("requests_total", outcome="busy") == 4)
        other = open_raw(running.port, address="127.0.0.3")
        other.sendall(frame(pack(plain(2, request_id=2))))
        until(lambda: running.value("requests_total", outcome="busy") == 5)
        policy.gate.set()
        assert "actions" in unpack(other.recv(2**16)[4:])
        for client in (*flood, other):
            client.close()


def test_an_address_has_a_bound_of_connections_and_loopback_has_none() -> None:
    door = Door(TrafficLimits(max_per_address=2), lambda reason, client: None)
    assert [door.enter("10.0.0.1") for _ in range(3)] == [True, True, False]
    assert door.enter("10.0.0.2")
    door.leave("10.0.0.1")
    door.leave("10.0.0.1")
    assert door.enter("10.0.0.1")
    assert all(door.enter("127.0.0.1") for _ in range(9))
    assert address_of(("2001:db8:1:2:3:4:5:6", 1, 0, 0)) == address_of(("2001:db8:1:2::9", 2, 0, 0))
    assert address_of(("::ffff:10.0.0.1", 1, 0, 0)) == "10.0.0.1"
    assert address_of(("::1", 1, 0, 0)) == "::1"


def test_of_unfinished_messages_the_oldest_of_the_largest_address_goes() -> None:
    inbox, gone = Inbox(100, 5), []
    old = inbox.begin("a", lambda: gone.append("old"))
    other = inbox.begin("b", lambda: gone.append("other"))
    new = inbox.begin("a", lambda: gone.append("new"))
    whole = inbox.begin("a", lambda: gone.append("whole"))
    other.add(20)
    old.add(30)
    new.add(10)
    whole.add(40)
    whole.complete()
    assert (inbox.held, gone) == (100, [])
    other.add(1)
    assert (inbox.held, gone) == (71, ["old"])
    old.add(50)
    assert inbox.held == 71, "what has gone counts no more"
    with pytest.raises(Busy):
        other.add(50)
    assert inbox.held == 50
    whole.close()
    new.close()
    new.close()
    assert inbox.held == 0
    several = [inbox.begin(str(n), lambda n=n: gone.append(n)) for n in range(6)]
    assert gone == ["old", 0]
    several[5].add(-10)
    assert inbox.held == 0


# ----------------------------------------------------------------- stopping


def health(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_server_that_stops_says_so_before_its_port_closes() -> None:
    policy = FakePolicy()
    service = fake_service(policy, traffic=FAST)
    seen: list[int] = []
    with serving(service) as running, pages(service, 0) as beside:
        policy.gate.clear()
        busy = open_raw(running.port)
        busy.sendall(frame(pack(plain(1))))
        until(lambda: running.value("stage_seconds_count", stage="prepare") == 1)
        assert [health(running.port), health(beside)] == [200, 200]

        def look() -> None:
            until(lambda: not service.engine.ready)
            seen.extend([health(running.port), health(beside)])
            try:
                connect(running.url).__enter__()
            except InvalidStatus as error:
                seen.append(error.response.status_code)
            policy.gate.set()

        looking = threading.Thread(target=look)
        looking.start()
        running.stop()
        looking.join(10)
        assert seen == [503, 503, 503]
        assert busy.recv(2**16), "what was under way is answered"
        assert health(beside) == 503
        until(lambda: refused(running.port))


def test_a_flood_of_the_pages_makes_few_threads() -> None:
    service = fake_service(FakePolicy())
    with pages(service, 0) as port:
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
        until(lambda: sum(is_closed(client, 0.01) for client in silent) >= 44)
        assert threading.active_count() - before <= 16
        for client in silent:
            client.close()
        until(lambda: threading.active_count() == before)
        assert health(port) == 200
    service.engine.drain(5)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except ConnectionRefusedError:
        return True
    return False
