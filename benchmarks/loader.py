"""Samples a second and memory of the training loader: against the number of samples, and against tf.data.

    python benchmarks/loader.py --tf-python /tmp/tfenv/bin/python [--samples 10000 … 10000000] [--workers 3]

The index of so many samples is made up by counting the same shards many times over; reading and decoding are
real. --tf-python: of an environment with tensorflow-cpu and tensorflow-datasets; without it only our side
runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from made_shards import make_shards
from rlds import TensorFlowSide
from spatialvla import Processor
from spatialvla.data.batches import training_batches
from spatialvla.data.episodes import Episode, EpisodeSource
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.survey import Survey, survey
from spatialvla.data.training_mixture import TrainingMixture

CHECKPOINT = Path(__file__).parents[1] / "tests" / "goldens" / "reference" / "checkpoint"
SIZE, BATCH = 224, 32
EPISODES, STEPS = 400, 40


@dataclass(frozen=True)
class ManyTimes:
    """A dataset counted many times over."""

    source: EpisodeSource
    times: int

    @property
    def key(self) -> str:
        return self.source.key

    @property
    def control_hz(self) -> float:
        return self.source.control_hz

    @property
    def fingerprint(self) -> str:
        return f"{self.source.fingerprint} x{self.times}"

    def prepare(self, workers: int) -> None:
        self.source.prepare(workers)

    def __len__(self) -> int:
        return self.times * len(self.source)

    def episode(self, index: int) -> Episode:
        return self.source.episode(index % len(self.source))


def opened(folder: Path, samples: int) -> tuple[TrainingMixture, Processor]:
    source = OXESource(make_shards(folder, EPISODES, STEPS), cache=folder / "index")
    once = survey(source, cache=folder / "surveys")
    times = max(1, round(samples / once.samples.sum()))
    many = Survey(
        *(np.tile(column, times) for column in (once.lengths, once.samples, once.instructed)),
        once.damaged,
        once.sketch,
    )
    repeated = ManyTimes(source, times)
    mixture = TrainingMixture((repeated,), (many,), (1.0,), (np.zeros(len(repeated), bool),), seed=0)
    mixture.training(np.arange(1))
    processor = Processor.from_pretrained(CHECKPOINT)
    return mixture, replace(processor, image_size=SIZE, action_chunk_size=4, statistics=mixture.statistics())


def resident(*processes: int) -> float:
    """Megabytes of these processes, pages they share counted once (Pss)."""
    total = 0
    for process in processes:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1e3


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def cpu_seconds(*processes: int) -> float:
    """What these processes have used of all cores so far."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def timed(batches: Iterator[LoadedBatch], count: int) -> float:
    start = time.perf_counter()
    for _ in islice(batches, count):
        pass
    return count * BATCH / (time.perf_counter() - start)


def settled(*processes: int) -> None:
    """Waits until these processes, which make batches ahead, have filled their queues; a minute at most."""
    for _ in range(120):
        used = cpu_seconds(*processes)
        time.sleep(0.5)
        if cpu_seconds(*processes) - used <= 0.02:
            return


def one_size(folder: Path, samples: int, batches: int) -> None:
    """In a process of its own, so that its memory is its own."""
    before = resident(os.getpid())
    start = time.perf_counter()
    mixture, processor = opened(folder, samples)
    running = training_batches(mixture, processor, BATCH)
    seconds = time.perf_counter() - start
    index = resident(os.getpid()) - before
    timed(running, 2)
    early = resident(os.getpid())
    cpu = time.process_time()
    speed = timed(running, batches)
    cpu = 1e3 * (time.process_time() - cpu) / (batches * BATCH)
    late = resident(os.getpid())
    print(json.dumps([len(mixture.training), seconds, index, early, late, speed, cpu]))


def against_size(folder: Path, sizes: list[int], batches: int) -> None:
    print("one process:")
    print(
        f"{'samples':>12} {'opens in':>10} {'index MB':>9} {'MB early':>9} {'MB late':>9} {'samples/s':>10} "
        f"{'ms of CPU':>10}"
    )
    for samples in sizes:
        command = [
            sys.executable,
            __file__,
            "--folder",
            folder,
            "--one",
            str(samples),
            "--batches",
            str(batches),
        ]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        number, seconds, index, early, late, speed, cpu = json.loads(answer)
        print(
            f"{number:12,} {seconds:8.2f} s {index:9.0f} {early:9.0f} {late:9.0f} {speed:10.0f} {cpu:10.2f}"
        )


def against_tensorflow(
    folder: Path, python: str, rounds: int, batches: int, buffers: list[int], workers: int
) -> None:
    mixture, processor = opened(folder, EPISODES * STEPS)
    running = training_batches(mixture, processor, BATCH, workers=workers)
    timed(running, 4)
    own_memory = resident(os.getpid(), *children(os.getpid()))
    print(f"\nours with {workers} workers, and tf.data with a shuffle buffer of so many decoded frames:")
    print(f"{'':8} {'samples/s':>15} {'ratio':>7} {'ms of CPU':>17} {'ratio':>7} {'MB':>17}")
    print(
        f"{'buffer':>8} {'ours':>6} {'tf.data':>8} {'':7} {'ours':>8} {'tf.data':>8} {'':7} {'ours':>8} {'tf.data':>8}"
    )
    for buffer in buffers:
        other = TensorFlowSide(python, make_shards(folder, EPISODES, STEPS))

        def theirs(count: int) -> dict[str, float]:
            return other("samples", buffer=buffer, batch=BATCH, size=SIZE, batches=count)  # noqa: B023

        theirs(4)  # fills the buffer
        rows = []
        for _ in range(rounds):
            made_by = [child for child in children(os.getpid()) if child != other.process.pid]
            family = (os.getpid(), *made_by)
            settled(other.process.pid)
            timed(running, 4 * workers)  # what was made ahead is not counted
            cpu = cpu_seconds(*family)
            ours = timed(running, batches)
            cpu = cpu_seconds(*family) - cpu
            settled(*made_by)
            theirs(4 * workers)
            answer = theirs(batches)
            count = answer["count"]
            rows.append(
                (
                    ours,
                    1e3 * cpu / count,
                    count / answer["wall"],
                    1e3 * answer["cpu"] / count,
                    answer["rss"] / 1e6,
                )
            )
        other.close()
        own, own_cpu, their, their_cpu, memory = (statistics.median(c) for c in zip(*rows, strict=True))
        ratio = statistics.median(row[0] / row[2] for row in rows)
        cpu_ratio = statistics.median(row[3] / row[1] for row in rows)
        print(f"{buffer:8,} {own:6.0f} {their:8.0f} {ratio:6.2f}x {own_cpu:8.2f} {their_cpu:8.2f} {cpu_ratio:6.2f}x"
              f" {own_memory:8.0f} {memory:8.0f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tf-python")
    parser.add_argument("--samples", type=int, nargs="*", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--buffers", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/spatialvla-benchmark"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        one_size(options.folder, options.one, options.batches)
        return
    against_size(options.folder, options.samples, options.batches)
    if options.tf_python:
        against_tensorflow(
            options.folder,
            options.tf_python,
            options.rounds,
            options.batches,
            options.buffers,
            options.workers,
        )


if __name__ == "__main__":
    main()
