"""Load on a policy server: throughput, latency and fairness by number of clients, beside openpi's server pattern.

    python benchmarks/serving.py --clients 1 8 16 64 --seconds 60
    python benchmarks/serving.py --memory 10000

Both servers run the same policy in processes of their own and are loaded in turns by the same clients, which run in
other processes and ask again as soon as they are answered. openpi's server answers one request at a time in its event
loop; it is written here after that pattern. Every answer is checked against what the policy says of that observation
alone. Speculation is off: it depends on what the robot sees.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from spatialvla_client.codec import pack, unpack

IMAGES = 24
SIDE = 224
SERVERS = ("openpi", "engine")


def observations() -> list[dict]:
    """Pictures and instructions that all processes agree on, in the size openpi's LIBERO client sends."""
    rng = np.random.default_rng(0)
    tasks = [
        "next to the plate",
        "on the stove",
        "between the plate and the ramekin",
        "from the table center",
    ]
    return [
        {
            "image": np.kron(rng.integers(0, 255, (14, 14, 3)), np.ones((16, 16, 1))).astype(np.uint8),
            "instruction": f"pick up the black bowl {tasks[number % len(tasks)]} and place it on the plate",
        }
        for number in range(IMAGES)
    ]


# ------------------------------------------------------------------- servers


def run_server(kind: str, policy_name: str, device: str, port: int, threads: int, options: dict) -> None:
    """The process of one server; says "Ready" once it listens."""
    import torch

    from spatialvla.common.cpu import tune_cpu
    from spatialvla.policy import Policy

    tune_cpu()
    torch.set_num_threads(threads)
    policy = Policy.from_pretrained(policy_name, speculate=False, device=device)
    if kind == "openpi":
        asyncio.run(one_at_a_time(policy, port))
    else:
        from spatialvla.serving.engine.client_mapping import ClientMapping
        from spatialvla.serving.engine.service import service_for
        from spatialvla.serving.engine.settings import EngineSettings
        from spatialvla.serving.guard.traffic import TrafficLimits
        from spatialvla.serving.openpi.server import run

        service = service_for(
            policy, port=port, settings=EngineSettings(**options), traffic=TrafficLimits(rate=1e6, burst=1000)
        )
        run(service, ClientMapping.load("plain"))


async def one_at_a_time(policy, port: int) -> None:
    """openpi's pattern: the event loop itself runs the policy, for one request after the other."""
    from spatialvla.types import Observation

    async def handle(websocket) -> None:
        await websocket.send(pack({"server": "openpi pattern"}))
        async for message in websocket:
            content = unpack(message)
            (chunk,) = policy.predict([Observation(content["image"], content["instruction"])])
            await websocket.send(
                pack({"actions": chunk.actions, "tokens": chunk.tokens, "request_id": content["request_id"]})
            )

    (warm,) = observations()[:1]
    policy.predict([Observation(warm["image"], warm["instruction"])])
    async with serve(handle, "127.0.0.1", port, compression=None, max_size=None):
        print("Ready", flush=True)
        await asyncio.get_running_loop().create_future()


@contextmanager
def server(kind: str, arguments: argparse.Namespace) -> Iterator[tuple[str, psutil.Process]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--serve", kind, "--port", str(port), "--policy", arguments.policy]
    command += ["--device", arguments.device]
    command += ["--threads", str(arguments.threads), "--engine", json.dumps(arguments.engine)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                if line.startswith("Ready"):
                    break
            else:
                raise SystemExit(f"The {kind} server did not start.")
            yield f"ws://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            process.terminate()


# ------------------------------------------------------------------- clients


@dataclass(frozen=True)
class Load:
    """What one client saw: seconds of each answer, how many shared its batch, and what was not as it should be."""

    latencies: list[float]
    batches: list[int]
    swapped: int
    differing: int


async def one_client(number: int, url: str, until: float, requests: int | None, expected: np.ndarray) -> Load:
    seen, latencies, batches, swapped, differing = observations(), [], [], 0, 0
    async with connect(url, compression=None, max_size=None, open_timeout=60) as websocket:
        await websocket.recv()
        step = 0
        while time.monotonic() < until and (requests is None or step < requests):
            which = (7 * number + step) % IMAGES
            message = pack({**seen[which], "request_id": 1_000_000 * number + step})
            began = time.perf_counter()
            await websocket.send(message)
            reply = unpack(await websocket.recv())
            latencies.append(time.perf_counter() - began)
            batches.append(reply.get("server_timing", {}).get("batch", 1))
            swapped += reply["request_id"] != 1_000_000 * number + step
            differing += not np.array_equal(reply["tokens"], expected[which])
            step += 1
    return Load(latencies, batches, swapped, differing)


def some_clients(
    numbers: list[int], url: str, until: float, requests: int | None, expected: np.ndarray
) -> list[Load]:
    """The process of some of the clients."""

    async def all_of_them() -> list[Load]:
        return await asyncio.gather(*(one_client(n, url, until, requests, expected) for n in numbers))

    return asyncio.run(all_of_them())


@dataclass(frozen=True)
class Row:
    server: str
    clients: int
    seconds: float
    requests: int
    actions_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    slowest_client: int
    fastest_client: int
    jain: float
    batch: float
    swapped: int
    differing: int
    server_cpu_ms: float


@dataclass(frozen=True)
class Round:
    """A stretch of load on one server. cpu: seconds of the server's."""

    loads: list[Load]
    seconds: float
    cpu: float


def load(
    url: str, process: psutil.Process, clients: int, seconds: float, expected: np.ndarray, pool
) -> Round:
    """Closed-loop clients for some seconds."""
    groups = [
        list(range(clients))[first :: pool._processes] for first in range(min(clients, pool._processes))
    ]
    before, began = cpu(process), time.monotonic()
    jobs = [pool.apply_async(some_clients, (group, url, began + seconds, None, expected)) for group in groups]
    loads = [one for job in jobs for one in job.get()]
    return Round(loads, time.monotonic() - began, cpu(process) - before)


def row(kind: str, clients: int, rounds: list[Round], chunk: int) -> Row:
    """Latencies of a client's first tenth, when connections are made, do not count."""
    counts = np.sum([[len(one.latencies) for one in each.loads] for each in rounds], axis=0)
    loads = [one for each in rounds for one in each.loads]
    seconds = sum(each.seconds for each in rounds)
    late = np.concatenate([one.latencies[len(one.latencies) // 10 :] for one in loads]) * 1000
    p50, p95, p99 = np.percentile(late, [50, 95, 99])
    return Row(
        server=kind,
        clients=clients,
        seconds=round(seconds, 2),
        requests=int(counts.sum()),
        actions_per_s=round(float(counts.sum() * chunk / seconds), 1),
        p50_ms=round(float(p50), 1),
        p95_ms=round(float(p95), 1),
        p99_ms=round(float(p99), 1),
        slowest_client=int(counts.min()),
        fastest_client=int(counts.max()),
        jain=round(float(counts.sum() ** 2 / (len(counts) * (counts**2).sum())), 4),
        batch=round(float(np.mean([size for one in loads for size in one.batches])), 1),
        swapped=sum(one.swapped for one in loads),
        differing=sum(one.differing for one in loads),
        server_cpu_ms=round(sum(each.cpu for each in rounds) / counts.sum() * 1000, 1),
    )


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def answers(policy_name: str, device: str) -> np.ndarray:
    """(IMAGES, chunk, 3): what the policy says of each observation alone."""
    import torch

    from spatialvla.policy import Policy
    from spatialvla.types import Observation

    torch.set_num_threads(1)
    policy = Policy.from_pretrained(policy_name, speculate=False, device=device)
    return np.stack(
        [policy.predict([Observation(o["image"], o["instruction"])])[0].tokens for o in observations()]
    )


# ------------------------------------------------------------------- reports


def compare(arguments: argparse.Namespace, expected: np.ndarray, pool) -> list[Row]:
    rows = []
    print(
        "| clients | server | actions/s | p50 ms | p95 ms | p99 ms | answers a client | batch | CPU ms a request |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    with server("openpi", arguments) as openpi, server("engine", arguments) as engine:
        for clients in arguments.clients:
            rounds: dict[str, list[Round]] = {kind: [] for kind in SERVERS}
            for _ in range(arguments.rounds):
                for kind, (url, process) in zip(SERVERS, (openpi, engine), strict=True):
                    part = load(url, process, clients, arguments.seconds / arguments.rounds, expected, pool)
                    rounds[kind].append(part)
            for kind in SERVERS:
                rows.append(found := row(kind, clients, rounds[kind], expected.shape[1]))
                print(
                    f"| {clients} | {kind} | {found.actions_per_s:.0f} | {found.p50_ms:.0f} | {found.p95_ms:.0f} | "
                    f"{found.p99_ms:.0f} | {found.slowest_client} – {found.fastest_client} | {found.batch:.1f} | "
                    f"{found.server_cpu_ms:.0f} |",
                    flush=True,
                )
            one, many = rows[-2:]
            print(
                f"| | ratio | {many.actions_per_s / one.actions_per_s:.2f} | {many.p50_ms / one.p50_ms:.2f} | "
                f"{many.p95_ms / one.p95_ms:.2f} | {many.p99_ms / one.p99_ms:.2f} | | | "
                f"{many.server_cpu_ms / one.server_cpu_ms:.2f} |",
                flush=True,
            )
    print(
        f"\nSwapped answers: {sum(each.swapped for each in rows)} of {sum(each.requests for each in rows)}."
    )
    print(
        f"Tokens that differ from the observation's own, predicted alone: {sum(each.differing for each in rows)}."
    )
    return rows


def memory(arguments: argparse.Namespace, expected: np.ndarray, pool) -> list[dict]:
    """The server's resident memory while 16 clients, connecting anew each time, ask `--memory` times in all."""
    steps, found = 10, []
    each = arguments.memory // steps // 16
    with server("engine", arguments) as (url, process):
        for step in range(steps + 1):
            found.append(
                {"requests": step * each * 16, "rss_mb": round(process.memory_info().rss / 2**20, 1)}
            )
            print(f"{found[-1]['requests']:>8} requests: {found[-1]['rss_mb']:.1f} MB", flush=True)
            groups = [list(range(16))[first :: pool._processes] for first in range(pool._processes)]
            jobs = [
                pool.apply_async(some_clients, (g, url, time.monotonic() + 600, each, expected))
                for g in groups
            ]
            loads = [one for job in jobs for one in job.get()]
            assert not any(one.swapped for one in loads)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16, 64])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=4, help="of seconds/rounds each, in turns")
    parser.add_argument(
        "--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="of the model, in each server"
    )
    parser.add_argument("--processes", type=int, default=2, help="that share the clients")
    parser.add_argument("--engine", type=json.loads, default={}, help="EngineSettings as JSON")
    parser.add_argument("--memory", type=int, default=0, help="requests; measures memory instead")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        run_server(
            arguments.serve,
            arguments.policy,
            arguments.device,
            arguments.port,
            arguments.threads,
            arguments.engine,
        )
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended, too
    expected = answers(arguments.policy, arguments.device)
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        if arguments.memory:
            result: list = memory(arguments, expected, pool)
        else:
            result = [asdict(row) for row in compare(arguments, expected, pool)]
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
