"""Clients that ask a policy server again as soon as they are answered, and check every answer: for `serving.py`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np
from websockets.asyncio.client import connect

from spatialvla_client.codec import pack, unpack

IMAGES = 24
SIDE = 224


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
