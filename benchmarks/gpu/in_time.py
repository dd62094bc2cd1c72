"""Record demonstrations and go on training the small policies with them, all within a given number of seconds.

python benchmarks/gpu/in_time.py --out runs/in_time --seconds 540
python benchmarks/gpu/in_time.py --out runs/in_time --seconds 600 --record 0.4 --also datasets/libero_10/more
python benchmarks/gpu/in_time.py --out runs/in_time --random-views 3 --suites libero_spatial spatial_exam:0.4

For a machine that is lent for minutes: many cores record while a GPU draws, and then the GPU trains all policies at
once. Every demonstration that a task's process finishes in its time counts; what is left of the time is training's.
The policies, with weights in 16 bits, are in <out>/nano and <out>/nano-wrist.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro

from spatialvla.common.device import find_device
from spatialvla.common.json_files import write_json
from spatialvla.data.lerobot.metadata import is_dataset
from spatialvla.processor import Processor
from spatialvla.simulation.libero.exam.questions import is_exam
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
EXAM_LEARNS_AS = "libero_spatial"
"""By whose statistics the spatial exam's demonstrations are learned from: it stands in the same scene."""

LOAD, START, END = 20.0, 25.0, 10.0
"""Seconds that a task takes beside its demonstrations, a training until its first step, and after its last one."""

PRELOADED = ("spatialvla.simulation.recorders", "spatialvla.training.loop", "robosuite")
"""What takes seconds to import, and is imported once for all processes."""

TRIAL = 20
"""Batches by which the vision stage's speed is measured."""


@dataclass(frozen=True)
class Options:
    out: Path
    seconds: float = 540.0  # in all
    record: float = 0.35  # share of them
    vision: float = 0.15  # share of the rest that the image encoder learns alone
    suites: tuple[str, ...] = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    # "spatial_exam:0.4" gives its tasks 0.4 times as long as others have.
    tasks: tuple[int, ...] = ()  # all unless given
    drivers: tuple[str, ...] = (EXPERT, "nano-wrist", "nano")  # who is at the wheel, in turn
    random_views: int = 0  # cameras around the workspace, of which policies with a wrist camera learn
    policies: tuple[str, ...] = ("nano-wrist", "nano")  # names, or folders to go on from
    depth_weights: Path | None = None  # of `train-depth`; each policy's own unless given
    also: tuple[Path, ...] = ()  # <suite>/<name>, further datasets of the same cameras, recorded before
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
        """Of its dataset."""
        return f"{self.suite}/{self.task}"


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
        # Practice for the exam is the expert's alone.
        for driver in (EXPERT,) if is_exam(job.suite) else options.drivers:
            policy = None if driver == EXPERT else driver
            config = RecordingConfig(
                folder,
                job.suite,
                cameras="random" if options.random_views else "fixed",
                random_views=max(1, options.random_views),
                wrist=True,
                draw_every=options.draw_every,
                depth=False,
                policy=policy,
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
        cached = run_config(options, policy, [dataset], options.out / "caching" / job.name / named(policy))
        Trainer(cached, world(options), Progress(cached, None))
    return (
        f"{job.name}: {len(files)} demonstrations, {failed} failed, {took / number:.1f} s each, {loaded:.0f} s to "
        f"load, {time.time() - began - loaded - took:.0f} s to store and cache"
    )


def run_config(options: Options, policy: str, datasets: list[Path], out: Path) -> TrainConfig:
    """How a policy goes on: with its own statistics of each suite, so that its tokens keep their meaning."""
    processor = Processor.from_pretrained(policy)
    own = processor.to_json()["statistics"]
    several, first = len(processor.camera_names) > 1, "observation.images.agentview"
    through_any = "+".join((first, *(f"observation.images.random_{n}" for n in range(options.random_views))))
    known: dict[str, Any] = {}
    learned: list[DatasetConfig] = []
    for path in datasets:
        key = f"{path.parent.name}/{path.name}"
        suite = EXAM_LEARNS_AS if is_exam(path.parent.name) else path.parent.name
        seen = {key: first}
        if several and options.random_views:
            # As often by the camera that stands where it always does as through any of them.
            seen[f"{key}/any"] = through_any
        learned += [DatasetConfig(str(path), camera=camera, key=name) for name, camera in seen.items()]
        known |= dict.fromkeys(seen, own[suite])
    statistics = options.out / f"statistics_{named(policy)}_{os.getpid()}.json"
    write_json(statistics, known)
    hidden = 0.05 if several else 0.0
    return replace(
        nano(policy),
        datasets=tuple(learned),
        statistics=statistics,
        depth_weights=options.depth_weights,
        cache=options.out / "cache",
        out=out,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        workers=options.workers,
        camera_dropout=hidden,
        state_dropout=hidden,
        compile=False,
        held_out=0.0,
        save_every=1_000_000,
        trackers=(),
    )


def named(policy: str) -> str:
    """As its folder is called."""
    return Path(policy).name


def world(options: Options) -> World:
    return World(device=find_device(options.device))


def learn(options: Options, policy: str, datasets: list[Path], ends: float) -> str:
    """Vision stage and policy until `ends`; says in a line what came of it."""
    config = run_config(options, policy, datasets, options.out / f"run_{named(policy)}")
    # Adam's rate grows with the root of the batch.
    rate = config.guidance.vision_rate * (options.batch_size / config.guidance.vision_batch_size) ** 0.5
    guidance = replace(config.guidance, vision_batch_size=options.batch_size, vision_rate=rate)
    trial = replace(guidance, vision_steps=TRIAL)
    each = vision_seconds(
        options, replace(config, guidance=trial, out=options.out / f"trial_{named(policy)}")
    )
    left = ends - time.time() - START - END
    steps = max(1, int(options.vision * left / each))
    left -= steps * each
    if left <= 0:
        return f"{policy}: {-left:.0f} s too few to train in; give it more, or record less"
    config = replace(config, guidance=replace(guidance, vision_steps=steps), minutes=left / 60)
    result = train(config, resume=True, device=options.device)
    export(config.out, options.out / named(policy), dtype=torch.float16)
    speed = result.step * options.batch_size / left
    return (
        f"{policy}: {steps} batches of the vision stage, about {steps * each:.0f} s, then {result.step} of the "
        f"policy, {speed:.0f} samples/s"
    )


def vision_seconds(options: Options, config: TrainConfig) -> float:
    """What a batch of a configuration's vision stage takes, from running that stage."""
    trainer = Trainer(config, world(options), Progress(config, None))
    began = time.time()
    trainer.pretrain_vision([])
    return (time.time() - began) / config.guidance.vision_steps


def jobs_of(options: Options, began: float) -> list[Job]:
    """All tasks, those first that take longest, each with its part of the time that all processes have together."""
    until = began + options.record * options.seconds
    tasks: dict[tuple[str, int], float] = {}
    for name in options.suites:
        suite, _, share = name.partition(":")
        numbers = options.tasks or range(len(recorder_of(suite).task_names(suite)))
        tasks |= dict.fromkeys(((suite, number) for number in numbers), float(share or 1))
    at_once = min(1.0, options.processes / len(tasks))
    mean = at_once * options.record * options.seconds - LOAD
    unit = mean * len(tasks) / sum(tasks.values())
    jobs = [Job(suite, number, LOAD + unit * share, until) for (suite, number), share in tasks.items()]
    return sorted(jobs, key=lambda job: -job.seconds)


def main(options: Options) -> None:
    began = time.time()
    jobs = jobs_of(options, began)
    # A fresh process for each task: the simulator never gives its drawing memory back.
    context = get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    with ProcessPoolExecutor(options.processes, context, max_tasks_per_child=1) as pool:
        tell([pool.submit(record, options, job) for job in jobs], began)
    datasets = [path for path in (options.out / "data" / job.name for job in jobs) if is_dataset(path)]
    datasets += [path.resolve() for path in options.also]
    with ProcessPoolExecutor(len(options.policies), context) as pool:
        ends = began + options.seconds
        learning = [pool.submit(learn, options, policy, datasets, ends) for policy in options.policies]
        tell(learning, began)
    sys.exit(any(done.exception() for done in learning))


def tell(running: list[Future[str]], began: float) -> None:
    """Prints what came of each, as it ends: what one process fails at takes nothing from the others."""
    for done in as_completed(running):
        error = done.exception()
        said = done.result() if error is None else "".join(traceback.format_exception(error))
        print(f"{time.time() - began:5.0f} s  {said}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
