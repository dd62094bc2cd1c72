"""What a mixture of 74 RLDS datasets and 100 million samples costs: opening it, its memory, and samples a second.

    python benchmarks/index_scale.py [--samples 1000000 100000000] [--datasets 74] [--workers 3]

The shards are few and real, and so is every image that is read. The index of steps and the surveys are files of full
size, in which the same episodes stand many times over: opening, mapping, drawing and looking up is that of so many.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from loader import CHECKPOINT, SIZE, children, cpu_seconds, resident, timed
from made_shards import make_shards
from spatialvla import Processor
from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.data import survey as surveys
from spatialvla.data.batches import training_batches
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.specs import SPECS
from spatialvla.data.rlds import episode_index
from spatialvla.data.training_mixture import TrainingMixture

EPISODES, STEPS, BATCH = 400, 40, 32


def dataset(folder: Path, number: int) -> OXESource:
    """One of the datasets: the same shards under another name."""
    root = folder / f"dataset_{number}" / "bridge_orig" / "1.0.0"
    if not root.exists():
        root.mkdir(parents=True)
        for file in make_shards(folder.parent, EPISODES, STEPS).iterdir():
            (root / file.name).symlink_to(file)
        info = json.loads((root / "dataset_info.json").read_text())
        (root / "dataset_info.json").unlink()
        (root / "dataset_info.json").write_text(json.dumps(info | {"splits": []}))
    spec = replace(SPECS["bridge_orig"], version=f"1.0.{number}")
    return OXESource(root, spec, cache=folder / "cache")


def multiplied(source: OXESource, times: int, cache: Path) -> None:
    """Writes the index and the survey of a dataset as if it had each of its episodes so many times."""
    source.dataset.index_steps()
    found = surveys.survey(source)
    split = source.dataset._split
    folder = split.cache / split.digest
    table = np.fromfile(folder / "episodes.bin", np.int64).reshape(-1, 5)
    meta = read_arrays(folder / "meta.npz")
    parts = np.split(table, np.cumsum(meta["counts"])[:-1])
    many = np.concatenate([np.tile(part, (times, 1)) for part in parts])
    many.tofile(folder / "episodes.bin")
    stamps = np.array([episode_index._checksum(many), meta["stamps"][1]])
    write_arrays(folder / "meta.npz", meta | {"counts": times * meta["counts"], "stamps": stamps})
    said = np.stack([np.arange(len(many)), np.tile(found.said[:, 1], times)], axis=1)
    columns = (np.tile(column, times) for column in (found.lengths, found.samples, found.tasks))
    repeated = surveys.Survey(
        *columns, found.damaged, found.sketch, found.instructions, said, 0, found.states
    )
    surveys._save(repeated, surveys.kept_at(source, cache))


def made(folder: Path, samples: int, datasets: int) -> Path:
    """A folder of the datasets with their cache; of sizes that differ as those of Open X-Embodiment do."""
    root = folder / f"scale-{datasets}x{samples}"
    if (root / "done").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    shares = 1 / np.arange(1, datasets + 1)
    for number, share in enumerate(shares / shares.sum()):
        times = max(1, round(share * samples / (EPISODES * (STEPS - 1))))
        multiplied(dataset(root, number), times, root / "surveys")
    (root / "done").touch()
    return root


def one(root: Path, datasets: int, workers: int, batches: int) -> None:
    """In a process of its own, so that its memory is its own."""
    before = resident(os.getpid())
    start = time.perf_counter()
    sources = [dataset(root, number) for number in range(datasets)]
    opened = time.perf_counter() - start
    mixture = TrainingMixture.open(sources, cache=root / "surveys")
    draws = mixture.training
    draws(np.arange(1))
    whole = time.perf_counter() - start
    memory = resident(os.getpid()) - before
    start = time.perf_counter()
    for step in range(200):
        draws(np.arange(BATCH * step, BATCH * (step + 1)))
    drawn = 200 * BATCH / (time.perf_counter() - start)
    processor = replace(
        Processor.from_pretrained(CHECKPOINT),
        image_size=SIZE,
        action_chunk_size=4,
        statistics=mixture.statistics(),
    )
    running = training_batches(mixture, processor, BATCH, workers=workers)
    start = time.perf_counter()
    timed(running, 1)
    first = time.perf_counter() - start
    timed(running, 4 * workers)
    family = (os.getpid(), *children(os.getpid()))
    cpu = cpu_seconds(*family)
    speed = timed(running, batches)
    cpu = 1e3 * (cpu_seconds(*family) - cpu) / (batches * BATCH)
    episodes = sum(len(source) for source in sources)
    print(
        json.dumps([len(draws), episodes, opened, whole, memory, drawn, first, resident(*family), speed, cpu])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="*", default=[10**6, 10**8])
    parser.add_argument("--datasets", type=int, default=74)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/spatialvla-benchmark"))
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        one(options.one, options.datasets, options.workers, options.batches)
        return
    print(
        "    samples   episodes  opens in  with surveys  index MB   draws/s  first batch  all MB  samples/s  CPU ms"
    )
    for samples in options.samples:
        root = made(options.folder, samples, options.datasets)
        command = [sys.executable, __file__, "--one", root, "--datasets", str(options.datasets)]
        command += ["--workers", str(options.workers), "--batches", str(options.batches)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        count, episodes, opened, whole, memory, drawn, first, all_memory, speed, cpu = json.loads(answer)
        print(
            f"{count:11,} {episodes:10,} {opened:7.2f} s {whole:11.2f} s {memory:9.0f} {drawn:9,.0f} {first:10.2f} s "
            f"{all_memory:7.0f} {speed:10.0f} {cpu:7.2f}"
        )


if __name__ == "__main__":
    main()
