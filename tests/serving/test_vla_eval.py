"""The model server for vla-eval, spoken to by the harness's own client over a socket."""

import contextlib
import json
import logging
import os
import signal
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import msgpack
import numpy as np
import pytest
import vla_eval
from fake_policy import FakePolicy, expected
from raw_websocket import frame, open_raw
from running import fake_service, options, running
from vla_eval.connection import Connection
from vla_eval.protocol.messages import MessageType
from vla_eval.registry import resolve_import_string
from vla_eval.specs import DimSpec, check_specs
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from spatialvla.actions.published_units import published_units
from spatialvla.actions.units import LIBERO as LIBERO_UNITS
from spatialvla.errors import InputError
from spatialvla.execution import WHOLE_CHUNKS, Execution
from spatialvla.serving.guard.access import Access
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.logs import TextFormatter
from spatialvla.serving.vla_eval import server as protocol
from spatialvla.serving.vla_eval.conventions import BENCHMARKS, LIBERO, SIMPLER_GOOGLE_ROBOT, HarnessBenchmark
from spatialvla.serving.vla_eval.model_server import VlaEvalServer
from spatialvla.types import Observation

DATASETS = {"libero": "libero_spatial", "simpler_widowx": "bridge_orig/1.0.0"}
EPISODE = {"task": {"suite": "libero_spatial", "name": "pick", "task_id": 0}}
each = pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)


class RobotPolicy(FakePolicy):
    """A fake with a dataset, a camera and a way of execution."""

    def __init__(self, dataset: str, seconds: float = 0.0, own_camera: bool = True) -> None:
        super().__init__(seconds)
        self.dataset = dataset
        self.execution: Execution = WHOLE_CHUNKS
        self.processor = SimpleNamespace(cameras={"default": None, dataset if own_camera else "other": None})
        self.intrinsics: list[Any] = []

    def prepare(self, observation: Observation, committed: np.ndarray | None = None) -> Any:
        self.intrinsics.append(observation.intrinsics)
        return super().prepare(observation, committed)


def policy_for(benchmark: HarnessBenchmark, **more: Any) -> RobotPolicy:
    return RobotPolicy(DATASETS.get(benchmark.name, "fractal20220817_data/0.1.0"), **more)


@contextmanager
def served(
    benchmark: HarnessBenchmark = LIBERO,
    policy: RobotPolicy | None = None,
    traffic: TrafficLimits | None = None,
) -> Iterator[Any]:
    """Yields the server's address and the policy behind it."""
    policy = policy or policy_for(benchmark)
    service = fake_service(policy, traffic=traffic, units=published_units(policy.dataset))
    model = VlaEvalServer(service, benchmark)
    with running(service, protocol.websocket_server(service, model)) as found:
        yield SimpleNamespace(
            url=found.url, port=found.port, policy=policy, service=service, value=found.value
        )


def message(benchmark: HarnessBenchmark, shade: int = 0, text: str = "pick it up") -> dict[str, Any]:
    """An observation in the benchmark's format, its picture of one color."""
    image = np.full((benchmark.camera.height, benchmark.camera.width, 3), shade, np.uint8)
    return {"images": {benchmark.image: image}, "task_description": text}


def answer(shade: int, text: str = "pick it up") -> np.ndarray:
    """(4, 7) what the fake policy says of such a picture."""
    return expected(Observation(np.full((1, 1, 3), shade, np.uint8), text))


@each
def test_the_harness_finds_that_specs_fit(benchmark: HarnessBenchmark) -> None:
    harness = resolve_import_string(benchmark.harness_class)(**benchmark.parameters)

    async def hello(url: str) -> dict[str, Any]:
        async with Connection(url) as connection:
            return connection.server_info

    with served(benchmark) as running:
        info = anyio.run(hello, running.url)
    action, seen = (
        {name: DimSpec.from_dict(spec) for name, spec in info[key].items()}
        for key in ("action_spec", "observation_spec")
    )
    assert check_specs(action, harness.get_action_spec(), seen, harness.get_observation_spec()) == []
    assert info["observation_params"] == dict(benchmark.parameters)


def test_a_chunk_is_executed_before_the_policy_looks_again() -> None:
    async def episode(url: str) -> list[np.ndarray]:
        async with Connection(url) as connection:
            await connection.start_episode(EPISODE)
            got = [(await connection.act(message(LIBERO, shade)))["actions"] for shade in range(6)]
            await connection.end_episode({"success": True})
            await connection.start_episode(EPISODE)
            return [*got, (await connection.act(message(LIBERO, 77)))["actions"]]

    with served() as running:
        got = np.stack(anyio.run(episode, running.url))
        assert len(running.policy.batches) == 3
    said = np.concatenate([answer(0), answer(4)[:2], answer(77)[:1]])
    said[:, 6] = 1 - 2 * said[:, 6]
    assert np.allclose(got, said, atol=1e-6)


def test_simpler_env_is_played_with_the_published_ensemble() -> None:
    async def episode(url: str) -> list[np.ndarray]:
        async with Connection(url) as connection:
            await connection.start_episode({"task": {"name": "google_robot_pick_coke_can"}})
            return [
                (await connection.act(message(SIMPLER_GOOGLE_ROBOT, n)))["actions"] for n in (0, 100, 200)
            ]

    with served(SIMPLER_GOOGLE_ROBOT) as running:
        got = anyio.run(episode, running.url)
        assert len(running.policy.batches) == 3
    said = [answer(0)[2, :3], answer(100)[1, :3], answer(200)[0, :3]]
    assert np.allclose(got[2][:3], np.average(said, axis=0, weights=np.exp([0, 0.8, 1.6])), atol=1e-6)


def test_an_execution_that_was_asked_for_takes_the_place_of_the_published_one() -> None:
    policy = policy_for(SIMPLER_GOOGLE_ROBOT)
    policy.execution = Execution("receding", 2)
    with served(SIMPLER_GOOGLE_ROBOT, policy) as running:

        async def two(url: str) -> None:
            async with Connection(url) as connection:
                await connection.start_episode({})
                for _ in range(2):
                    await connection.act(message(SIMPLER_GOOGLE_ROBOT))

        anyio.run(two, running.url)
        assert len(policy.batches) == 1


@pytest.mark.parametrize("own_camera", [True, False])
def test_the_benchmarks_camera_is_for_checkpoints_that_know_their_own(own_camera: bool) -> None:
    async def once(url: str) -> None:
        async with Connection(url) as connection:
            await connection.start_episode({})
            await connection.act(message(SIMPLER_GOOGLE_ROBOT))

    with served(SIMPLER_GOOGLE_ROBOT, policy_for(SIMPLER_GOOGLE_ROBOT, own_camera=own_camera)) as running:
        anyio.run(once, running.url)
        (seen,) = running.policy.intrinsics
    assert (seen is not None) is own_camera


def test_shards_share_batches_and_each_gets_its_own_answers() -> None:
    async def shard(url: str, number: int) -> None:
        async with Connection(url) as connection:
            for _ in range(2):
                await connection.start_episode(EPISODE)
                for step in range(8):
                    got = (await connection.act(message(LIBERO, 10 * number + step // 4)))["actions"]
                    said = answer(10 * number + step // 4)[step % 4]
                    assert np.allclose(got[:6], said[:6], atol=1e-6)

    async def shards(running: Any) -> None:
        running.policy.gate.clear()
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(shard, running.url, number)
            with anyio.move_on_after(10):  # either the first batch takes four, or four are left waiting
                while running.service.engine.metrics.value("queued_requests") < 4:
                    await anyio.sleep(0.01)
            running.policy.gate.set()

    with served() as running:
        anyio.run(shards, running)
        sizes = [len(batch) for batch in running.policy.batches]
    assert sum(sizes) == 8 * 4
    assert max(sizes) >= 4


def test_a_mismatch_is_told_with_every_observation_and_the_connection_goes_on() -> None:
    async def play(url: str) -> list[str]:
        sentences = []

        async def refused(connection: Connection, observation: dict[str, Any]) -> None:
            with pytest.raises(RuntimeError, match="Server error") as caught:
                await connection.act(observation)
            sentences.append(str(caught.value))

        async with Connection(url) as connection:
            await refused(connection, message(LIBERO))
            await connection.start_episode({"task": {"task_name": "widowx_stack_cube"}})
            await refused(connection, message(LIBERO))
            await refused(connection, message(LIBERO))
            await connection.start_episode(EPISODE)
            await refused(connection, message(SIMPLER_GOOGLE_ROBOT))
            await refused(connection, message(LIBERO, text="crash"))
            assert len((await connection.act(message(LIBERO)))["actions"]) == 7
        return sentences

    with served() as running:
        sentences = anyio.run(play, running.url)
    assert "No episode has begun" in sentences[0]
    assert "plays libero, but the episode is one of widowx_stack_cube" in sentences[1] == sentences[2]
    assert "images.agentview" in sentences[3]
    assert "Inference failed" in sentences[4]
    assert "secret" not in sentences[4]


def test_a_not_finite_action_never_leaves() -> None:
    async def play(url: str) -> None:
        async with Connection(url) as connection:
            await connection.start_episode(EPISODE)
            with pytest.raises(RuntimeError, match="NaN or infinity"):
                await connection.act(message(LIBERO, text="nan"))

    with served() as running:
        anyio.run(play, running.url)


@pytest.mark.parametrize("garbage", [b"\x00\xff\x13", b"\x81\xa4type\xa5hello", b""])
def test_garbage_ends_its_own_connection_only(garbage: bytes) -> None:
    async def good(url: str) -> None:
        async with Connection(url) as connection:
            await connection.start_episode(EPISODE)
            with connect(url) as bad:
                bad.send(garbage)
                with pytest.raises(ConnectionClosed):
                    bad.recv(timeout=5)
            assert len((await connection.act(message(LIBERO)))["actions"]) == 7

    with served() as running:
        anyio.run(good, running.url)


def test_a_client_that_leaves_in_the_middle_of_an_episode_is_forgotten() -> None:
    with served() as running:

        async def leave(url: str) -> None:
            async with Connection(url) as connection:
                await connection.start_episode(EPISODE)
                await connection.send(MessageType.OBSERVATION, message(LIBERO))

        anyio.run(leave, running.url)

        async def come(url: str) -> None:
            async with Connection(url) as connection:
                with pytest.raises(RuntimeError, match="No episode has begun"):
                    await connection.act(message(LIBERO))

        anyio.run(come, running.url)


def test_within_one_process_the_harness_serves_the_policy_itself() -> None:
    async def play(url: str) -> np.ndarray:
        async with Connection(url) as connection:
            await connection.start_episode(EPISODE)
            return (await connection.act(message(LIBERO, 3)))["actions"]

    policy = policy_for(LIBERO)
    service = fake_service(policy, units=published_units(policy.dataset))
    with vla_eval.serve_background(VlaEvalServer(service, LIBERO)) as handle:
        assert np.allclose(anyio.run(play, handle.url)[:6], answer(3)[0, :6], atol=1e-6)
    service.engine.drain(5)


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


def test_a_policy_of_another_robot_is_refused() -> None:
    service = fake_service(RobotPolicy("libero_spatial"), units=LIBERO_UNITS)
    with pytest.raises(InputError, match="simpler_google_robot takes other actions"):
        protocol.run(service, options(benchmark="simpler_google_robot"))
    service.engine.drain(5)


def test_keys_are_refused_as_the_client_has_none() -> None:
    service = fake_service(policy_for(LIBERO), access=Access(digests=(b"x" * 32,)), units=LIBERO_UNITS)
    with pytest.raises(InputError, match="neither API keys nor TLS"):
        protocol.run(service, options())
    service.engine.drain(5)


def test_told_to_stop_it_answers_what_it_has_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = fake_service(policy_for(LIBERO, seconds=0.5), port=port, units=LIBERO_UNITS)

    async def play() -> int:
        async with Connection(f"ws://127.0.0.1:{port}", backoff_base=0.3) as connection:
            await connection.start_episode(EPISODE)
            await connection.send(MessageType.OBSERVATION, message(LIBERO))
            await anyio.sleep(0.2)
            os.kill(os.getpid(), signal.SIGTERM)
            return len((await connection.recv(timeout=10)).payload["actions"])

    with ThreadPoolExecutor() as threads:
        playing = threads.submit(anyio.run, play)
        protocol.run(service, options())
        assert playing.result(10) == 7
    assert not service.engine.ready


@pytest.mark.sim
def test_the_harness_plays_libero_against_nano(tmp_path: Path) -> None:
    from spatialvla import Policy
    from spatialvla.serving.engine.service import service_for

    service = service_for(Policy.from_pretrained("nano"))
    config = {
        "benchmarks": [
            {
                "benchmark": LIBERO.harness_class,
                "max_tasks": 1,
                "max_steps": 6,
                "params": {"suite": "libero_spatial", "seed": 7},
            }
        ]
    }
    server = VlaEvalServer(service, LIBERO)
    (result,) = vla_eval.evaluate(server, config, docker=False, output_dir=tmp_path)
    (episode,) = result["tasks"][0]["episodes"]
    service.engine.drain()
    assert "failure_reason" not in episode or episode["failure_reason"] is None
    assert episode["steps"] == 6


def test_a_workspace_that_nobody_can_keep_does_not_start() -> None:
    service = fake_service(policy_for(LIBERO), limits=Limits.load("franka"), units=LIBERO_UNITS)
    with pytest.raises(InputError, match="no workspace can be kept"):
        VlaEvalServer(service, LIBERO)
