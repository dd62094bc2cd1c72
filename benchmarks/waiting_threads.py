"""Training and inference of `nano` while torch's threads spin or sleep as they wait, alone and beside a busy process.

    python benchmarks/waiting_threads.py [--rounds 3] [--seconds 10] [--busy 1]

Every measurement is a process of its own; the ways take turns, so that other work on the machine meets all alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spatialvla.common.waiting_threads import let_threads_sleep

BATCH = 16
WAYS = ("spinning", "asleep")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--busy", type=int, default=1, help="processes that compute beside it")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measured(options.seconds)))
        return
    found: dict[tuple[int, str, str], list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for busy in {0, options.busy}:
            for way in WAYS:
                with neighbors(busy):
                    for what, speed in one_process(way, options.seconds).items():
                        found[busy, what, way].append(speed)
    for busy in {0, options.busy}:
        for what in ("training samples/s", "chunks/s"):
            spinning, asleep = (statistics.median(found[busy, what, way]) for way in WAYS)
            print(
                f"{busy} busy beside it: {what:18} spinning {spinning:6.2f}, asleep {asleep:6.2f}, "
                f"ratio {asleep / spinning:.2f}"
            )


def one_process(way: str, seconds: float) -> dict[str, float]:
    """What a process measures whose threads wait in this way."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "KMP_", "GOMP_"))}
    if way == "asleep":
        let_threads_sleep(environment)
    command = [sys.executable, __file__, "--measure", "--seconds", str(seconds)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout))


@contextmanager
def neighbors(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    busy = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(count)]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.kill()


def _compute() -> None:
    while True:
        sum(range(100_000))


def measured(seconds: float) -> dict[str, float]:
    """Samples a second of training steps, and chunks a second of the shipped model, with torch's own threads."""
    import numpy as np

    from spatialvla.common.cpu import tune_cpu
    from spatialvla.model.presets import preset
    from spatialvla.model.spatialvla import SpatialVLA
    from spatialvla.policy import Policy
    from spatialvla.training.optimizer import build_optimizer
    from spatialvla.training.recipes import nano
    from spatialvla.types import Observation
    from training import random_batch

    tune_cpu()
    network = preset("nano")
    model = SpatialVLA(network).train()
    batch, optimizer = random_batch(network, BATCH), build_optimizer(model, nano())

    def step() -> None:
        model.training_loss(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    policy = Policy.from_pretrained("nano")
    observation = Observation(np.full((224, 224, 3), 90, np.uint8), "pick up the bowl")
    return {
        "training samples/s": BATCH * rate(step, seconds),
        "chunks/s": rate(lambda: policy.act(observation), seconds),
    }


def rate(work: Callable[[], object], seconds: float) -> float:
    """Times a second, after two that do not count."""
    for _ in range(2):
        work()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        work()
        count += 1
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
