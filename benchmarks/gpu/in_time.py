"""Record demonstrations and go on training the small policies with them, all within a given number of seconds.

python benchmarks/gpu/in_time.py --out runs/in_time --seconds 540
python benchmarks/gpu/in_time.py --out runs/in_time --seconds 600 --record 0.4 --suites libero_10 --also datasets/more

For a machine that is lent for minutes: many cores record while a GPU draws, and then the GPU trains all policies at
once. Every demonstration that a task's process finishes in its time counts; what is left of the time is training's.
The policies, with weights in 16 bits, are in <out>/nano and <out>/nano-wrist.
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import torch
import tyro

from spatialvla.common.device import find_device
from spatialvla.common.json_files import write_json
from spatialvla.data.lerobot.metadata import is_dataset
from spatialvla.processor import Processor
from spatialvla.simulation.recorders import recorder_of
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.simulation.recording.dataset import store
from spatialvla.training.checkpoints.export import export
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.loop import Trainer, train
from spatialvla.training.parallel.world import World
from spatialvla.training.recipes import nano
from spatialvla.training.run.progress import Progress

EXPERT = "expert"
START, END = 25.0, 20.0
"""Seconds that a training takes until its first step, and after its last one."""
TRIAL = 20
"""Batches by which the vision stage's speed is measured."""


@dataclass(frozen=True)
class Options:
    out: Path
    seconds: float = 540.0  # in all
    record: float = 0.35  # share of them
    vision: float = 0.15  # share of the rest that the image encoder learns alone
    suites: tuple[str, ...] = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    tasks: tuple[int, ...] = ()  # all unless given
    drivers: tuple[str, ...] = (EXPERT, "nano-wrist", "nano")  # who is at the wheel, in turn
    policies: tuple[str, ...] = ("nano-wrist", "nano")
    also: tuple[Path, ...] = ()  # further datasets of both cameras, recorded before
    processes: int = os.cpu_count() or 1
    batch_size: int = 384
    learning_rate: float = 9e-4
    workers: int = max(1, (os.cpu_count() or 1) // 2 - 1)  # that read samples, of each training
    seed: int = 100  # of start states
    draw_every: int = 6  # steps of a demonstration
    device: str = "auto"


@dataclass(frozen=True)
class Job:
    """One task to record for so many seconds, until `ends` at most, into a dataset of its own."""

    suite: str
    task: int
    seconds: float
    ends: float  # by time.time()

    @property
    def name(self) -> str:
        return f"{self.suite}_{self.task}"


def record(options: Options, job: Job) -> str:
    """Records, stores and caches; says in a line what came of it."""
    logging.disable(logging.WARNING)  # robosuite warns of settings nobody asked for
    torch.set_num_threads(1)
    os.environ.setdefault("LP_NUM_THREADS", "1")
    began, recorder, folder = time.time(), recorder_of(job.suite), options.out / "episodes" / job.name
    ends = min(began + job.seconds, job.ends)
    files: list[Path] = []
    failed = 0
    with ExitStack() as stack:
        plays = []
        for driver in options.drivers:
            policy = None if driver == EXPERT else driver
            config = RecordingConfig(
                folder, job.suite, wrist=True, draw_every=options.draw_every, depth=False, policy=policy
            )
            plays.append(stack.enter_context(recorder.playing(config, job.task)))
        loaded, number = time.time() - began, 0
        while time.time() < ends:
            demonstration = plays[number % len(plays)]([options.seed, job.task, number])
            number += 1
            if demonstration is None:
                failed += 1
                continue
            files.append(folder / f"{number:04d}.npz")
            demonstration.save(files[-1])
    if not files:
        return f"{job.name}: nothing in {time.time() - began:.0f} s, {failed} failed"
    took, dataset = time.time() - began - loaded, options.out / "data" / job.name
    store(files, dataset, recorder.embodiment, depth=False)
    for file in files:
        file.unlink()
    for policy in options.policies:
        cached = run_config(options, policy, [dataset], options.out / "caching" / f"{job.name}_{policy}")
        Trainer(cached, world(options), Progress(cached, None))
    return (
        f"{job.name}: {len(files)} demonstrations, {failed} failed, {took / number:.1f} s each, {loaded:.0f} s to "
        f"load, {time.time() - began - loaded - took:.0f} s to store and cache"
    )


def run_config(options: Options, policy: str, datasets: list[Path], out: Path) -> TrainConfig:
    """How a policy goes on: with its own statistics, so that its tokens keep their meaning."""
    processor = Processor.from_pretrained(policy)
    own = next(iter(processor.to_json()["statistics"].values()))
    statistics = options.out / f"statistics_{policy}_{os.getpid()}.json"
    write_json(statistics, dict.fromkeys([path.name for path in datasets], own))
    hidden = 0.05 if len(processor.camera_names) > 1 else 0.0
    return replace(
        nano(policy),
        datasets=tuple(DatasetConfig(str(path), camera="observation.images.agentview") for path in datasets),
        statistics=statistics,
        cache=options.out / "cache",
        out=out,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        workers=options.workers,
        camera_dropout=hidden,
        state_dropout=hidden,
        compile=False,
        eval_every=1_000_000,
        save_every=1_000_000,
        trackers=(),
    )


def world(options: Options) -> World:
    return World(device=find_device(options.device))


def learn(options: Options, policy: str, datasets: list[Path], ends: float) -> str:
    """Vision stage and policy until `ends`; says in a line what came of it."""
    config = run_config(options, policy, datasets, options.out / f"run_{policy}")
    # Adam's rate grows with the root of the batch.
    rate = config.guidance.vision_rate * (options.batch_size / config.guidance.vision_batch_size) ** 0.5
    guidance = replace(config.guidance, vision_batch_size=options.batch_size, vision_rate=rate)
    trial = replace(guidance, vision_steps=TRIAL)
    each = vision_seconds(options, replace(config, guidance=trial, out=options.out / f"trial_{policy}"))
    steps = max(1, int(options.vision * (ends - time.time()) / each))
    config = replace(config, guidance=replace(guidance, vision_steps=steps))
    looked = vision_seconds(options, config) * steps
    left = ends - time.time() - START - END
    if left <= 0:
        return f"{policy}: {-left:.0f} s too few to train in; give it more, or record less"
    result = train(replace(config, minutes=left / 60), resume=True, device=options.device)
    export(config.out, options.out / policy, dtype=torch.float16)
    speed = result.step * options.batch_size / left
    return (
        f"{policy}: {steps} batches of the vision stage in {looked:.0f} s, then {result.step} of the policy, "
        f"{speed:.0f} samples/s"
    )


def vision_seconds(options: Options, config: TrainConfig) -> float:
    """Runs a configuration's vision stage; the seconds that a batch of it took."""
    trainer = Trainer(config, world(options), Progress(config, None))
    began = time.time()
    trainer.pretrain_vision([])
    return (time.time() - began) / config.guidance.vision_steps


def main(options: Options) -> None:
    began = time.time()
    until = began + options.record * options.seconds
    chosen = {
        suite: options.tasks or range(len(recorder_of(suite).task_names(suite))) for suite in options.suites
    }
    tasks = [(suite, task) for suite, numbers in chosen.items() for task in numbers]
    share = options.record * options.seconds * min(1.0, options.processes / len(tasks))
    jobs = [Job(suite, task, share, until) for suite, task in tasks]
    # A fresh process for each task: the simulator never gives its drawing memory back.
    context = get_context("spawn")
    with ProcessPoolExecutor(options.processes, context, max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(record, options, job) for job in jobs]):
            print(f"{time.time() - began:5.0f} s  {done.result()}", flush=True)
    datasets = [path for path in (options.out / "data" / job.name for job in jobs) if is_dataset(path)]
    datasets += [path.resolve() for path in options.also]
    with ProcessPoolExecutor(len(options.policies), context) as pool:
        ends = began + options.seconds
        learning = [pool.submit(learn, options, policy, datasets, ends) for policy in options.policies]
        for done in as_completed(learning):
            print(f"{time.time() - began:5.0f} s  {done.result()}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
