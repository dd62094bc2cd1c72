"""vla-eval's port: nothing is set there, no web page talks to it, and no message takes more than its share."""

import contextlib
import json
import logging
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import msgpack
import pytest
from raw_websocket import frame, open_raw
from vla_eval_policy import EPISODE, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.logs import TextFormatter


def get(port: int, path: str, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_nobody_sets_anything_at_the_port() -> None:
    with served() as running:
        before = running.service.engine.settings
        assert get(running.port, "/health") == (200, {"status": "ok"})
        assert get(running.port, "/config") == (200, {"config": {"max_batch_size": before.max_batch}})
        for query in ("max_batch_size=1", "max_batch_size=100000", "max_wait_time=9", "%0a%1b[2J=1"):
            status, said = get(running.port, f"/config?{query}")
            assert (status, "--batching.max-batch" in said) == (403, True)
        assert running.service.engine.settings == before
        running.service.engine.leave()
        assert get(running.port, "/health")[0] == 503
        assert get(running.port, "/healthz")[0] == 503


def test_a_page_in_a_browser_cannot_reach_the_robot() -> None:
    with served() as running:
        with pytest.raises(InvalidStatus, match="403"):
            connect(running.url, origin="https://example.org").__enter__()
        assert get(running.port, "/config", Origin="https://example.org")[0] == 403


def png(width: int, height: int) -> bytes:
    """A file of few bytes for many black pixels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    packed = b"".join([packer.compress(row) for _ in range(height)] + [packer.flush()])
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        for name, data in chunks
    )


def peak() -> int:
    """The most memory that this process had, in bytes."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) * 1024


def test_large_pictures_are_not_decoded() -> None:
    """Four of half a gigabyte each, in as many messages, one under each name and one under the benchmark's."""
    file = png(13_000, 13_000)
    assert len(file) < 600_000

    def sent(name: str, number: int, data: bytes) -> bytes:
        picture = {"__image__": True, "format": "png", "data": data, "shape": [256, 256, 3]}
        payload = {"images": {name: picture}, "task_description": "pick"}
        return msgpack.packb({"type": "observation", "payload": payload, "seq": number, "timestamp": 0.0})

    start = msgpack.packb({"type": "episode_start", "payload": EPISODE, "seq": 0, "timestamp": 0.0})
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = peak()
    with served() as running, connect(running.url, max_size=None) as client:
        client.send(start)
        for number, name in enumerate(("agentview", "wrist", "agentview", "x")):
            client.send(sent(name, number, file))
            told = msgpack.unpackb(client.recv(10))
            assert (told["type"], told["seq"]) == ("error", number)
            assert ("13000 times 13000 pixels" in told["payload"]["error"]) == (name == "agentview")
        client.send(sent("agentview", 9, png(256, 256)))
        assert msgpack.unpackb(client.recv(10))["type"] == "action"
    assert peak() - before < 200 * 2**20, "one alone would take half a gigabyte"


def test_a_message_of_many_maps_is_refused_and_unread_ones_share_a_budget() -> None:
    with served(traffic=TrafficLimits(memory_mb=4, max_message_mb=2)) as running:
        with connect(running.url) as client:
            maps = {"type": "hello", "payload": {"a": [{}] * 4000}, "seq": 0, "timestamp": 0.0}
            client.send(msgpack.packb(maps))
            with pytest.raises(ConnectionClosed):
                client.recv(5)
        holding = [open_raw(running.port, greeted=False) for _ in range(5)]
        for client in holding:
            with contextlib.suppress(OSError):
                client.sendall(frame(bytes(3 * 2**19), announced=2**21))
        while not running.value("refused_connections_total", reason="memory"):
            time.sleep(0.01)
        for client in holding:
            client.close()


def test_what_a_client_says_does_not_reach_the_log_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    evil = "\x1b]0;owned\x07\n2026-01-01 ERROR forged"
    caplog.set_level(logging.INFO)
    with served(traffic=TrafficLimits(send_timeout=0.2)) as running, connect(running.url) as client:
        for kind, payload in (
            ("hello", {"harness_version": evil}),
            ("episode_start", {"task": {"task_name": evil}, "recording": {"sid": evil, "eid": evil}}),
            ("observation", {"images": {evil: 1}, "task_description": evil}),
            ("episode_end", {"x": evil}),
            ("error", {"error": evil}),
            (evil, {}),
        ):
            client.send(msgpack.packb({"type": kind, "payload": payload, "seq": 1, "timestamp": 0.0}))
        for _ in range(2):  # the answers to its hello and its observation
            client.recv(5)
        with pytest.raises(ConnectionClosed):
            client.recv(5)
    lines = [TextFormatter().format(record) for record in caplog.records]
    assert any("owned" in line for line in lines)
    assert all("\n" not in line and "\x1b" not in line for line in lines)
