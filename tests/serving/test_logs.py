"""A server's log: one line for each connection and refusal, which no client can forge, color or flood."""

import json
import logging
import time

import numpy as np
import pytest
from fake_policy import FakePolicy
from raw_websocket import frame, is_closed, open_raw
from running import fake_service, plain, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.logs import ClientLog, JsonFormatter, TextFormatter, printable
from spatialvla_client.codec import pack, unpack


def test_each_connection_and_each_refusal_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spatialvla.serving")
    with serving(fake_service(FakePolicy(), traffic=TrafficLimits(send_timeout=0.2))) as running:
        with connect(running.url, compression=None) as honest:
            honest.recv(10)
            honest.send(pack(plain(1)))
            assert "actions" in unpack(honest.recv(10))
        bad = open_raw(running.port)
        bad.sendall(frame(pack({"\x1b]0;owned\x07\nERROR forged": 1})))
        assert is_closed(bad)
        with pytest.raises(InvalidStatus):
            connect(running.url, origin="https://example.org").__enter__()
        deadline = time.monotonic() + 10
        while len([r for r in caplog.records if vars(r).get("event") == "gone"]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    events = [vars(record).get("event") for record in caplog.records]
    assert sorted(events) == ["connected"] * 2 + ["gone"] * 2 + ["refused"] * 2
    lines = [TextFormatter().format(record) for record in caplog.records]
    assert all("\n" not in line and "\x1b" not in line and "\x07" not in line for line in lines)
    (told,) = [line for line in lines if "forged" in line]
    assert r"\x1b]0;owned\x07\nERROR forged" in told
    read = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    (entry,) = [entry for entry in read if "forged" in entry["message"]]
    assert (entry["event"], entry["reason"]) == ("refused", "bad_input")
    assert entry["client"] in {each["client"] for each in read if each.get("event") == "connected"}
    assert {entry["answers"] for entry in read if entry.get("event") == "gone"} == {0, 1}


def test_tracebacks_cannot_forge_lines_either() -> None:
    try:
        raise ValueError("\x1b[2J\n2026-01-01 00:00:00 INFO spatialvla: forged")
    except ValueError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 0, "It failed", None, (type(error), error, error.__traceback__)
        )
    text = TextFormatter().format(record)
    assert "\x1b" not in text
    assert all(line.startswith("    ") for line in text.splitlines()[1:])
    assert len(JsonFormatter().format(record).splitlines()) == 1
    assert printable("a\u202eb\n\x9b" + "x" * 5000).startswith(r"a\u202eb\n\x9bxx")
    assert len(printable("\x00" * 5000)) < 5000


def test_a_flood_of_refusals_is_not_a_flood_of_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spatialvla.serving")
    now = [0.0]
    log = ClientLog(lambda: now[0])
    for _ in range(1000):
        log.refused("10.0.0.1", "busy")
    assert len(caplog.records) == 50
    now[0] = 1.0
    log.connected("10.0.0.2")
    assert caplog.records[-1].getMessage() == "10.0.0.2 connected. (950 lines before this one were left out.)"
    assert np.isclose(vars(caplog.records[-1])["unsaid"], 950)
