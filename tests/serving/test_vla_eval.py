"""The model server for vla-eval, spoken to by the harness's own client over a socket."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import vla_eval
from running import fake_service, options
from vla_eval.connection import Connection
from vla_eval.protocol.messages import MessageType
from vla_eval.registry import resolve_import_string
from vla_eval.specs import DimSpec, check_specs
from vla_eval_policy import EPISODE, RobotPolicy, answer, message, policy_for, served
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from spatialvla.actions.published_units import published_units
from spatialvla.actions.units import LIBERO as LIBERO_UNITS
from spatialvla.errors import InputError
from spatialvla.execution import Execution
from spatialvla.serving.guard.access import Access
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.vla_eval import server as protocol
from spatialvla.serving.vla_eval.conventions import BENCHMARKS, LIBERO, SIMPLER_GOOGLE_ROBOT, HarnessBenchmark
from spatialvla.serving.vla_eval.model_server import VlaEvalServer

each = pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)


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


def test_a_policy_in_the_robots_frame_does_not_start() -> None:
    policy = policy_for(LIBERO)
    policy.needs_extrinsics = True
    with pytest.raises(InputError, match="does not tell where the camera stands"):
        VlaEvalServer(fake_service(policy, units=LIBERO_UNITS), LIBERO)


def test_a_workspace_that_nobody_can_keep_does_not_start() -> None:
    service = fake_service(policy_for(LIBERO), limits=Limits.load("franka"), units=LIBERO_UNITS)
    with pytest.raises(InputError, match="no workspace can be kept"):
        VlaEvalServer(service, LIBERO)
