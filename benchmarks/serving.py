"""Load on a policy server: throughput, latency and fairness by number of clients, beside openpi's server pattern.

    python benchmarks/serving.py --clients 1 8 16 64 --seconds 60
    python benchmarks/serving.py --memory 10000

Both servers run the same policy in processes of their own and are loaded in turns by the same clients, which
run in other processes and ask again as soon as they are answered. openpi's server answers one request at a
time in its event loop; it is written here after that pattern. Every answer is checked against what the policy
says of that observation alone. Speculation is off: it depends on what the robot sees.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from serving_clients import Load, observations, some_clients
from serving_servers import SERVERS, ServerOptions, running


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


def server_options(arguments: argparse.Namespace) -> ServerOptions:
    return ServerOptions(arguments.policy, arguments.device, arguments.threads, arguments.engine)


# ------------------------------------------------------------------- reports


def compare(arguments: argparse.Namespace, expected: np.ndarray, pool) -> list[Row]:
    rows, options = [], server_options(arguments)
    print(
        "| clients | server | actions/s | p50 ms | p95 ms | p99 ms | answers a client | batch | CPU ms a request |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    with running("openpi", options) as openpi, running("engine", options) as engine:
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
    steps, found, options = 10, [], server_options(arguments)
    each = arguments.memory // steps // 16
    with running("engine", options) as (url, process):
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
    arguments = parser.parse_args()
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
