"""How much longer a decision takes while a browser watches: nano for one robot, in turns with and without one.

python benchmarks/dashboard_cost.py --rounds 20
"""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from time import perf_counter

import numpy as np
import torch
import tyro

from spatialvla import Observation, Policy
from spatialvla.common.cpu import tune_cpu
from spatialvla.serving.dashboard.robots import Robots
from spatialvla.serving.dashboard.server import dashboard
from spatialvla.serving.engine.service import service_for
from spatialvla.serving.engine.session import Session
from spatialvla.serving.guard.access import Access

DECISIONS = 20
IMAGE = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
OBSERVATION = Observation(IMAGE, "pick up the black bowl and place it on the plate")


def main(rounds: int = 20, threads: int = 1) -> None:
    """rounds: of 20 decisions without a page, with one that nobody opens, and with one that is watched."""
    tune_cpu()
    torch.set_num_threads(threads)
    policy = Policy.from_pretrained("nano")
    alone = service_for(policy)
    unseen, seen = (Robots(policy.camera_names, alone.units) for _ in range(2))
    watched = replace(alone, watchers=[seen])
    sessions = {
        "no page": alone.session(),
        "nobody looks": replace(alone, watchers=[unseen]).session(),
        "watched": watched.session(),
    }
    times: dict[str, list[float]] = {name: [] for name in sessions}
    with dashboard(watched, seen, host="127.0.0.1", port=0, access=Access()) as port:
        for _ in range(rounds):
            for name, session in sessions.items():
                with browser(f"http://127.0.0.1:{port}") if name == "watched" else nullcontext():
                    times[name] += asyncio.run(decisions(session))
    usual = np.median(times["no page"])
    for name, seconds in times.items():
        median, p95 = np.percentile(seconds, (50, 95))
        print(
            f"{name:14} median {1000 * median:6.1f} ms   p95 {1000 * p95:6.1f} ms   {median / usual:.3f} of no page"
        )


async def decisions(session: Session) -> list[float]:
    """Seconds of each."""
    times = []
    for _ in range(DECISIONS):
        began = perf_counter()
        await session.act(OBSERVATION)
        times.append(perf_counter() - began)
    return times


@contextmanager
def browser(url: str) -> Iterator[None]:
    """Asks once a second as the page does: what is new, and its pictures."""
    stop = threading.Event()

    def look() -> None:
        while True:
            live = read(url + "/live").decode()
            for picture in re.findall(r'src="([^"]+)"', live):
                read(url + picture)
            if stop.wait(1):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def read(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    tyro.cli(main)
