"""What the loaders of a 64-GPU run need from an object store: a simulation with a clock of its own, in one process.

    python benchmarks/scale_out.py [--latency 30] [--cpu 1.3] [--step 0.5]
    python benchmarks/scale_out.py --check

--check: the real loader, on a file system in memory that answers late, beside what the simulation says of it.

Each rank's workers make batches as `spatialvla.data.batches` has them do: in turn, and AHEAD of them at most. A sample
waits for its requests, one after another; so many samples wait `at_once`, and their CPU is taken one after another.
Latencies are log-normal; the workers of a node share its network, and each has a core. A step begins when every rank
has its batch.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from fsspec.implementations.memory import MemoryFileSystem

from loader import BATCH, CHECKPOINT, SIZE, timed
from made_shards import make_shards
from spatialvla import Processor
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import training_batches
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.samples import ReadOptions
from spatialvla.data.training_mixture import TrainingMixture

AHEAD = 4


@dataclass(frozen=True)
class Run:
    """latency: median seconds of a request; spread: of its logarithm. cpu: seconds a sample. step: seconds of a GPU's.

    requests, kilobytes: of a sample. gigabits: of a node's network, which `on_node` ranks share.
    """

    ranks: int = 64
    on_node: int = 8
    batch: int = 32
    workers: int = 4
    latency: float = 0.03
    spread: float = 0.6
    cpu: float = 1.3e-3
    step: float = 0.5
    at_once: int = 16
    requests: int = 1
    kilobytes: float = 14.0
    gigabits: float = 25.0

    def speed(self, steps: int = 400, seed: int = 0) -> float:
        """Share of the time that GPUs work: 1 where no step waits for samples."""
        made = self.made(steps, seed)
        ready = np.zeros((self.workers, self.ranks))  # when each worker has its last batch
        starts = np.zeros(steps)
        for step in range(steps):
            before = step - AHEAD * self.workers
            free = starts[before] if before >= 0 else 0.0
            worker = ready[step % self.workers]
            worker[:] = np.maximum(worker, free) + made[step]
            last = starts[step - 1] + self.step if step else 0.0
            starts[step] = max(last, worker.max())
        # The first steps find what was made before them, or wait for what was not.
        half = steps // 2
        return (steps - 1 - half) * self.step / float(starts[-1] - starts[half])

    def made(self, steps: int, seed: int = 0) -> np.ndarray:
        """(steps, ranks) seconds that a worker takes for a batch."""
        rng = np.random.default_rng(seed)
        # A thread has every so many-th sample, and its requests one after another.
        waits = (steps, self.ranks, self.at_once, self.batch // self.at_once * self.requests)
        made = self.latency * rng.lognormal(0, self.spread, waits).sum(axis=3).max(axis=2)
        made += self.batch * (self.cpu + self.kilobytes * 8e-6 / self.gigabits * self.on_node * self.workers)
        return np.asarray(made)

    def workers_needed(self) -> int | None:
        """The fewest a rank with which GPUs work 99 % of the time; None where 64 are too few."""
        counts = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
        return next((count for count in counts if replace(self, workers=count).speed() >= 0.99), None)

    @property
    def store(self) -> tuple[float, float]:
        """Requests and gigabytes a second that all ranks ask of the store."""
        samples = self.ranks * self.batch / self.step
        return samples * self.requests, samples * self.kilobytes / 1e6


class Late:
    """Makes files in memory answer `latency` seconds after they were asked for bytes."""

    def __init__(self) -> None:
        self.latency, self._cat_file = 0.0, MemoryFileSystem.cat_file
        MemoryFileSystem.cat_file = lambda *asked, **options: self(*asked, **options)

    def __call__(self, *asked: Any, **options: Any) -> bytes:
        time.sleep(self.latency)
        return self._cat_file(*asked, **options)


def check(folder: Path, latency: float, batches: int = 12) -> None:
    """One process, no workers: seconds a batch."""
    late, files = Late(), fsspec.filesystem("memory")
    for file in make_shards(folder, 40, 40).iterdir():
        files.pipe(f"/late/{file.name}", file.read_bytes())
    source = OXESource("memory://late", "bridge_orig", cache=folder / "late")
    mixture = TrainingMixture.open([source])
    processor = replace(
        Processor.from_pretrained(CHECKPOINT),
        image_size=SIZE,
        action_chunk_size=4,
        statistics=mixture.statistics(),
    )
    print("at once  latency  seconds a batch, measured  simulated")
    for at_once in (1, 16):
        took = {}
        for wait in (0.0, latency):
            late.latency = wait
            running = training_batches(
                mixture, processor, BATCH, ReadOptions(Augmentation(), at_once=at_once)
            )
            timed(running, 1)
            took[wait] = BATCH / timed(running, batches)
        run = Run(ranks=1, workers=1, latency=latency, spread=0, at_once=at_once, cpu=took[0.0] / BATCH)
        simulated = replace(run, step=0.0).made(2)[0, 0]
        print(f"{at_once:7} {1e3 * latency:5.0f} ms {took[latency]:26.3f} {simulated:10.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32, help="of a rank")
    parser.add_argument("--cpu", type=float, default=1.3, help="milliseconds a sample")
    parser.add_argument("--latency", type=float, nargs="*", default=[10, 30, 100], help="milliseconds")
    parser.add_argument("--step", type=float, nargs="*", default=[0.5, 0.1], help="seconds")
    parser.add_argument("--check", action="store_true", help="beside the real loader")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/spatialvla-benchmark"))
    options = parser.parse_args()
    if options.check:
        torch.set_num_threads(1)
        check(options.folder, 0.03)
        return
    ways = {
        "whole episode, 1.3 MB": (1, 1300.0, 1),
        "one image, 14 kB": (1, 14.0, 1),
        "one image, 16 at once": (1, 14.0, 16),
        "three images, 16 at once": (3, 42.0, 16),
    }
    print(" step  latency  what a sample reads      workers a rank  requests/s    GB/s  with 4 workers")
    for step in options.step:
        for latency in options.latency:
            for name, (requests, kilobytes, at_once) in ways.items():
                run = Run(
                    ranks=options.ranks,
                    batch=options.batch,
                    latency=latency / 1e3,
                    cpu=options.cpu / 1e3,
                    step=step,
                    at_once=at_once,
                    requests=requests,
                    kilobytes=kilobytes,
                )
                needed, (asked, moved) = run.workers_needed(), run.store
                print(
                    f"{step:4.1f} s {latency:5.1f} ms  {name:24} {needed or 'over 64':>14} {asked:11,.0f} {moved:7.2f} "
                    f"{100 * run.speed():13.0f} %"
                )


if __name__ == "__main__":
    main()
