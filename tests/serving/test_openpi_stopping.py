"""How an openpi server stops, and its pages for those who watch it."""

import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from openpi_clients import answer_to, client_of, raw
from running import fake_service, options, plain, serving
from websockets.exceptions import ConnectionClosed

from spatialvla.errors import InputError
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.openpi.server import run
from spatialvla.serving.status_pages import pages
from spatialvla_client.codec import pack

# ----------------------------------------------------------------- stopping


def test_stopping_answers_what_is_under_way(policy):
    replies = []
    with serving(fake_service(policy)) as running:
        policy.gate.clear()
        idle, busy = client_of(running), client_of(running)
        thread = threading.Thread(target=lambda: replies.append(busy.infer(plain(6))))
        thread.start()
        while not running.value("stage_seconds_count", stage="prepare"):
            time.sleep(0.01)
        threading.Timer(0.3, policy.gate.set).start()
    thread.join(5)
    assert np.array_equal(replies[0]["actions"], answer_to(plain(6)))
    with pytest.raises(ConnectionClosed) as closed:
        idle.infer(plain(7))
    assert closed.value.rcvd.code == 1001
    with pytest.raises(OSError, match="refused"):
        client_of(running)


def test_a_model_that_hangs_does_not_keep_the_server_from_stopping(policy):
    traffic = TrafficLimits(drain_timeout=0.3)
    with serving(fake_service(policy, traffic=traffic)) as running:
        policy.gate.clear()
        websocket = raw(running)
        websocket.send(pack(plain(1)))
        while not running.value("stage_seconds_count", stage="prepare"):
            time.sleep(0.01)
        threading.Timer(3, policy.gate.set).start()
        began = time.monotonic()
    assert time.monotonic() - began < 10
    with pytest.raises(ConnectionClosed):
        websocket.recv(5)


# --------------------------------------------------------------------- pages


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics_on_the_same_port(server):
    from prometheus_client.parser import text_string_to_metric_families

    assert get(server.port, "/healthz") == (200, "OK\n")
    client_of(server).infer(plain(1))
    status, text = get(server.port, "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert status == 200
    stages = {
        s.labels["stage"] for s in families["spatialvla_stage_seconds"].samples if s.name.endswith("_count")
    }
    assert stages == {"decode", "prepare", "queue", "infer", "post"}
    assert families["spatialvla_ready"].samples[0].value == 1
    server.service.engine.stop_accepting()
    assert get(server.port, "/healthz")[0] == 503


def test_the_pages_on_a_port_of_their_own(server):
    with pages(server.service, 0) as port:
        assert get(port, "/healthz") == (200, "OK\n")
        assert "spatialvla_ready 1.0" in get(port, "/metrics")[1]
        assert get(port, "/etc/passwd")[0] == 404
    with pytest.raises(OSError, match="refused"):
        get(port, "/healthz")


def test_a_port_that_is_taken_is_one_sentence(server, policy):
    second = fake_service(policy, port=server.port)
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{server.port}"):
        run(second, options())
    with pytest.raises(InputError, match="cannot be served"), pages(second, server.port):
        pass
    second.engine.drain(1)
