"""How long an honest client of a policy server waits while others flood it, hold messages back, or read nothing.

    python benchmarks/serving_flood.py --clients 200 --seconds 20

The server is `spatialvla serve` in a process of its own, with its usual settings. The honest client asks five
times a second, each time with a new picture; a connection that is lost is made anew. The others are in another
process. Addresses are of loopback: 127.0.0.1 is a tunnel's, which many clients share, and 127.0.0.2 another
machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import numpy as np
import psutil
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from serving_clients import observations
from spatialvla_client.codec import pack, unpack

_PERIOD = 0.2
_MIB = 2**20


@contextmanager
def running(policy: str) -> Iterator[tuple[int, psutil.Process]]:
    """`spatialvla serve`: its port, and its process."""
    command = [sys.executable, "-m", "spatialvla", "serve", "--policy", policy, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r":(\d+)$", process.stdout.readline().strip())
            if found is None:
                raise SystemExit("The server did not start.")
            yield int(found[1]), psutil.Process(process.pid)
        finally:
            process.terminate()


# --------------------------------------------------------------------- attacks


def flood(port: int, address: str, clients: int, stop: Event) -> None:
    """Clients that ask again as soon as they are answered or refused, and come back when they are thrown out."""
    message = pack({**observations()[0], "request_id": 1})

    async def one() -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):
                async with connect_async(
                    f"ws://127.0.0.1:{port}", local_addr=(address, 0), compression=None, open_timeout=60
                ) as socket:
                    await socket.recv()
                    while not stop.is_set():
                        await socket.send(message)
                        await socket.recv()
            await asyncio.sleep(0.1)

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(clients)))

    asyncio.run(all_of_them())


def hold_back(port: int, address: str, clients: int, stop: Event) -> None:
    """Messages of 16 MiB but for their last byte, again and again."""

    async def one() -> None:
        head = b"\x82\xff" + (16 * _MIB).to_bytes(8, "big") + bytes(4)
        while not stop.is_set():
            with contextlib.suppress(OSError):
                _, writer = await handshake(port, address)
                writer.write(head + bytes(16 * _MIB - 1))
                await writer.drain()
                while not stop.is_set() and not writer.transport.is_closing():
                    await asyncio.sleep(0.1)
            await asyncio.sleep(0.1)

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(clients)))

    asyncio.run(all_of_them())


def read_nothing(port: int, address: str, clients: int, stop: Event) -> None:
    """Pings, and no ear for the answers."""
    pings = (b"\x89\xfd" + bytes(4) + bytes(125)) * 1000

    async def one() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, asyncio.LimitOverrunError):
                reader, writer = await handshake(port, address)
                reader._transport.pause_reading()  # type: ignore[attr-defined]
                while not stop.is_set() and not writer.transport.is_closing():
                    writer.write(pings)
                    await asyncio.wait_for(writer.drain(), 5)
            await asyncio.sleep(0.1)

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(clients)))

    asyncio.run(all_of_them())


async def handshake(port: int, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection behind the handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


# ----------------------------------------------------------------- the honest client


def honest(port: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of each answer, and how often it was not answered with actions."""
    seen, latencies, failures = observations(), [], 0
    until, step = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        try:
            with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as socket:
                socket.recv(30)
                while time.monotonic() < until:
                    began = time.perf_counter()
                    socket.send(pack({**seen[step % len(seen)], "request_id": step}))
                    failures += "actions" not in unpack(socket.recv(30))
                    latencies.append(time.perf_counter() - began)
                    step += 1
                    time.sleep(max(0.0, _PERIOD - latencies[-1]))
        except Exception:
            failures += 1
            time.sleep(0.1)
    return latencies, failures


def measured(policy: str, seconds: float, attack, address: str, clients: int) -> str:
    """One row of the table."""
    stop = multiprocessing.Event()
    with running(policy) as (port, process):
        honest(port, 2)
        before, most, done = process.memory_info().rss, 0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.1):
                most = max(most, process.memory_info().rss)

        watching = threading.Thread(target=watch)
        attacker = multiprocessing.Process(target=attack, args=(port, address, clients, stop), daemon=True)
        if clients:
            attacker.start()
            time.sleep(3)
        watching.start()
        latencies, failures = honest(port, seconds)
        done.set()
        watching.join()
        if clients:
            attacker.kill()
        p50, p95, worst = (np.percentile(latencies or [np.inf], at) * 1000 for at in (50, 95, 100))
    grown = (most - before) / _MIB
    return f"{len(latencies)} | {failures} | {p50:.0f} | {p95:.0f} | {worst:.0f} | {grown:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="nano")
    parser.add_argument("--clients", type=int, default=200, help="of a flood")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    rows = (
        ("nobody else", flood, "127.0.0.1", 0),
        (f"{arguments.clients} that flood, same address", flood, "127.0.0.1", arguments.clients),
        (f"{arguments.clients} that flood, another address", flood, "127.0.0.2", arguments.clients),
        ("60 that hold back the end of 16 MiB", hold_back, "127.0.0.1", 60),
        ("20 that ping and read nothing", read_nothing, "127.0.0.1", 20),
    )
    print("| others | answers | not answered | p50 ms | p95 ms | most ms | memory grown, MiB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, attack, address, clients in rows:
        print(
            f"| {name} | {measured(arguments.policy, arguments.seconds, attack, address, clients)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
