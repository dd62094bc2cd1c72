"""Demonstrations of a whole suite: recorded in worker processes, resumable, stored as a LeRobot dataset."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import AbstractContextManager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Protocol

import torch

from spatialvla.actions.fitting import check_fit
from spatialvla.actions.units import ActionUnits
from spatialvla.common.output_folder import check_output_folder
from spatialvla.common.worker_signals import end_with_parent
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.metadata import is_dataset
from spatialvla.errors import InputError
from spatialvla.policy import Policy
from spatialvla.processor import Processor
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.simulation.recording.dataset import Embodiment, store
from spatialvla.simulation.recording.demonstration import Demonstration
from spatialvla.simulation.recording.episode_folder import claim, episode_file

_ATTEMPTS = 20  # start states tried for one episode before giving up; hard tasks fail in every fourth
_LOOK_EVERY = 2.0  # seconds, for new episodes

Play = Callable[[Sequence[int]], Demonstration | None]
"""A seed -> one episode from a freshly drawn start state, the same for the same seed; None if it failed."""


class Recorder(Protocol):
    """How one simulator records a suite. Worker processes get a copy of it."""

    @property
    def embodiment(self) -> Embodiment:
        """What the dataset says of all episodes."""

    def check(self, config: RecordingConfig) -> None:
        """Raises InputError where it cannot record what is asked for."""

    def task_names(self, suite: str) -> Sequence[str]:
        """The names of the suite's tasks, by number; InputError for an unknown suite."""

    def playing(self, config: RecordingConfig, task: int) -> AbstractContextManager[Play]:
        """The simulator with this task in it, ready to play its episodes."""


def driving_policy(config: RecordingConfig) -> Policy | None:
    """The policy that is to drive, if any, in the units of what it learned of the suite, or learned last."""
    if config.policy is None:
        return None
    return Policy.from_pretrained(config.policy, suite=config.suite)


def check_policy(
    config: RecordingConfig,
    taken: ActionUnits,
    taker: str,
    is_told: Callable[[Sequence[str]], bool] = lambda state_names: False,
) -> None:
    """Raises InputError where a policy is to drive whose actions are others than `taker` takes, or that would not
    see all that it looks through, or not be told its state. is_told: whether it would, by its numbers' names."""
    if config.policy is None:
        return
    # The worker processes load the weights; here the processor tells all that is asked.
    processor = Processor.from_pretrained(config.policy)
    dataset = processor.dataset_for(None, config.suite)
    if unseen := [name for name in processor.camera_names[1:] if name not in config.views.names]:
        raise InputError(
            f"{config.policy} looks through {', '.join(unseen)}, too, and can drive only where that is recorded; "
            f"add --wrist, or name another policy."
        )
    if processor.state_names and not is_told(processor.state_names):
        raise InputError(
            f"{config.policy} takes a state of the arm ({', '.join(processor.state_names)}) that {config.suite} does "
            "not have; name another policy."
        )
    statistics = processor.dataset_statistics(dataset)
    check_fit(
        processor.action_units(dataset),
        taken,
        taker,
        statistics=statistics,
        unknown_units=config.unknown_units,
    )


def record(
    recorder: Recorder,
    config: RecordingConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Records successful episodes of each task of a suite into a LeRobot v3 dataset.

    Episodes wait in `<out>.episodes`, or in `config.episodes`, until all are there; a killed run goes on with
    them.
    progress: told now and then how many episodes there are, and how many there are to be.
    Raises InputError if the dataset is there already, or for what `recorder` cannot record.
    """
    out = config.out
    if is_dataset(out):
        raise InputError(f"{out} already holds a dataset; write into a new folder.")
    pending = config.episodes or out.with_name(f"{out.name}.episodes")
    check_output_folder(out)
    check_output_folder(pending, "--out" if config.episodes is None else "--episodes")
    depth_video = None
    if config.depth_video != "none":
        depth_video = DepthQuantization.of(config.depth_video, config.depth_range)
    recorder.check(config)
    files = record_episodes(recorder, config, pending, progress)
    store(files, out, recorder.embodiment, config.depth, depth_video)
    if config.episodes is None:
        shutil.rmtree(pending)


def record_episodes(
    recorder: Recorder,
    config: RecordingConfig,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Records the missing episodes of a suite, and returns the files of all, task by task.

    Episode k of a task depends on the seed, the task, k and the policy only, so a killed run goes on where it
    stopped. What happens in it does not depend on the cameras.
    progress: told now and then how many episodes there are, and how many there are to be.
    Raises InputError as `claim`, and if an episode cannot be finished from several start states, as soon as each
    worker is through with its attempt under way.
    """
    count = len(recorder.task_names(config.suite))
    chosen = list(config.tasks) or list(range(count))
    if unknown := set(chosen) - set(range(count)):
        raise InputError(f"{config.suite} has the tasks 0 to {count - 1}, not {min(unknown)}.")
    claim(folder, config)
    wanted = {
        task: [episode_file(folder, task, k) for k in range(config.episodes_per_task)] for task in chosen
    }
    all_files = [file for files in wanted.values() for file in files]
    context = get_context("spawn")
    stopping = context.Event()
    # A fresh process for each task: the simulator never gives its drawing memory back.
    with ProcessPoolExecutor(
        config.workers,
        mp_context=context,
        initializer=_begin_worker,
        initargs=(stopping,),
        max_tasks_per_child=1,
    ) as pool:
        running = [
            pool.submit(_record_task, recorder, config, task, missing)
            for task, files in wanted.items()
            if (missing := [(k, file) for k, file in enumerate(files) if not file.exists()])
        ]
        waiting = set(running)
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=_LOOK_EVERY)
                for task_recorded in done:
                    task_recorded.result()
                progress(sum(file.exists() for file in all_files), len(all_files))
        except BaseException:
            # Else the error would show when all other tasks are recorded, hours later.
            stopping.set()
            for task_recorded in waiting:
                task_recorded.cancel()
            raise
    return all_files


_stopping: Event | None = None
"""Of a worker process: set where no more episodes are wanted."""


def _begin_worker(stopping: Event) -> None:
    global _stopping
    _stopping = stopping
    end_with_parent()
    logging.disable(logging.WARNING)  # robosuite warns of settings nobody asked for, in every process


def _ends() -> bool:
    return _stopping is not None and _stopping.is_set()


def _record_task(
    recorder: Recorder, config: RecordingConfig, task: int, missing: list[tuple[int, Path]]
) -> None:
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software renderer; one core a worker
    torch.set_num_threads(1)
    if _ends():  # It was next in line; loading a simulator and a policy for nothing takes minutes.
        return
    with recorder.playing(config, task) as play:
        for episode, file in missing:
            for attempt in range(_ATTEMPTS):
                if _ends():
                    return
                if demonstration := play([config.seed, task, episode, attempt]):
                    demonstration.save(file)
                    break
            else:
                name = recorder.task_names(config.suite)[task]
                raise InputError(f"The expert failed {_ATTEMPTS} times at {name}; change the seed.")
