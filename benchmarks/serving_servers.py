"""The servers that `serving.py` loads, each in a process of its own: ours, and one after openpi's pattern."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
from websockets.asyncio.server import serve

from serving_clients import observations
from spatialvla_client.codec import pack, unpack

SERVERS = ("openpi", "engine")


@dataclass(frozen=True)
class ServerOptions:
    """threads: of the model, in each server. engine: options of EngineSettings."""

    policy: str
    device: str
    threads: int
    engine: dict[str, Any] = field(default_factory=dict)


@contextmanager
def running(kind: str, options: ServerOptions) -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own: its address, once it listens, and the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, kind, "--port", str(port), "--policy", options.policy]
    command += ["--device", options.device, "--threads", str(options.threads)]
    command += ["--engine", json.dumps(options.engine)]
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


def run_server(kind: str, port: int, options: ServerOptions) -> None:
    """The process of one server; says "Ready" once it listens."""
    import torch

    from spatialvla.common.cpu import tune_cpu
    from spatialvla.policy import Policy

    tune_cpu()
    torch.set_num_threads(options.threads)
    policy = Policy.from_pretrained(options.policy, speculate=False, device=options.device)
    if kind == "openpi":
        asyncio.run(one_at_a_time(policy, port))
    else:
        from spatialvla.serving.engine.client_mapping import ClientMapping
        from spatialvla.serving.engine.service import ProtocolOptions, service_for
        from spatialvla.serving.engine.settings import EngineSettings
        from spatialvla.serving.guard.traffic import TrafficLimits
        from spatialvla.serving.openpi.server import run

        service = service_for(
            policy,
            port=port,
            settings=EngineSettings(**options.engine),
            traffic=TrafficLimits(rate=1e6, burst=1000),
        )
        run(service, ProtocolOptions(mapping=ClientMapping.load("plain")))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=SERVERS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--policy", default="nano")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine", type=json.loads, default={}, help="EngineSettings as JSON")
    arguments = parser.parse_args()
    options = ServerOptions(arguments.policy, arguments.device, arguments.threads, arguments.engine)
    run_server(arguments.kind, arguments.port, options)


if __name__ == "__main__":
    main()
