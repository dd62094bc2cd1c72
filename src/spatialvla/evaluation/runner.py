"""Plays a benchmark: worker processes step environments, one batched model decides for all of them."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console

from spatialvla.errors import InputError
from spatialvla.evaluation.moments import Moment, MomentKeeper
from spatialvla.evaluation.progress import EvaluationProgress
from spatialvla.evaluation.protocol import DEPTH_SOURCES, Benchmark, Job, plan_jobs
from spatialvla.evaluation.results import EpisodeResult, Results, installed_versions
from spatialvla.evaluation.worker import Built, Decide, Failure, Idle, Setup, run_worker
from spatialvla.types import ActionChunk, Observation


class EvaluationError(RuntimeError):
    """A worker died or its environment broke; the message names the task."""


class Executor(Protocol):
    """The state of one episode: which steps of the chunks are executed."""

    def __call__(self, chunk: ActionChunk) -> np.ndarray:
        """The (k, 7) actions to execute before the next decision, k >= 1."""

    def reset(self) -> None:
        """A new episode starts."""


class Player(Protocol):
    """What is evaluated: `Policy`, or anything that predicts like it."""

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]: ...

    def new_executor(self) -> Executor: ...


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    connection: Connection
    executor: Executor
    job: Job | None = None


def evaluate(
    policy: Player,
    suite: str,
    episodes_per_task: int,
    *,
    benchmark: Benchmark,
    out: Path,
    workers: int = 2,
    depth: str = "estimate",
    tasks: Sequence[int] | None = None,
    name: str = "policy",
    checkpoint: str | None = None,
    videos: bool = True,
    keeper: MomentKeeper | None = None,
    console: Console | None = None,
) -> Results:
    """Plays `episodes_per_task` episodes of each task and writes `out`/results.json and `out`/videos/.

    Episode i of a task starts from stored start state i. Requests that wait at the same time become one
    batch. results.json is rewritten after every episode, so an interrupted run leaves what it found.

    depth: "estimate" lets the model estimate it, "simulator" hands it the true depth.
    tasks: task numbers, all of the suite's if None. name, checkpoint: stored with the results.
    Raises InputError for options that cannot be used, EvaluationError when a worker dies.
    """
    if depth not in DEPTH_SOURCES:
        raise InputError(f"depth must be one of {', '.join(DEPTH_SOURCES)}, got {depth!r}")
    instructions = _chosen(benchmark.instructions(suite), tasks, suite)
    jobs = plan_jobs(suite, list(instructions), episodes_per_task, workers)
    results = Results(
        suite=suite,
        policy=name,
        checkpoint=checkpoint,
        depth=depth,
        episodes_per_task=episodes_per_task,
        tasks=instructions,
        conventions=benchmark.conventions(suite),
        versions=installed_versions(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    setup = Setup(benchmark, results.conventions, depth == "simulator", out / "videos" if videos else None)
    workers = min(workers, len(jobs))
    total = episodes_per_task * len(instructions)
    console = console or Console(stderr=True)
    progress = EvaluationProgress(console, total, workers, results.conventions.time_limit)
    began = time.monotonic()
    with _processes(workers, policy, setup) as pool, progress:
        for result in _play(policy, pool, jobs, instructions, progress, keeper):
            episodes = sorted((*results.episodes, result), key=lambda e: (e.task, e.start_state))
            seconds = round(time.monotonic() - began, 3)
            results = replace(results, episodes=tuple(episodes), seconds=seconds)
            results.save(out / "results.json")
            progress.finished(result, instructions[result.task])
    return results


def _play(
    policy: Player,
    pool: list[_Worker],
    jobs: list[Job],
    instructions: dict[int, str],
    progress: EvaluationProgress,
    keeper: MomentKeeper | None,
) -> Iterator[EpisodeResult]:
    """Answers the workers' messages until every job is done; yields episodes as they end."""
    queue = deque(jobs)
    active = {worker.connection: worker for worker in pool}
    while active:
        waiting: list[tuple[_Worker, Decide]] = []
        for connection in wait(list(active)):
            assert isinstance(connection, Connection)
            worker = active[connection]
            match _receive(worker, instructions):
                case Idle():
                    worker.job = queue.popleft() if queue else None
                    _send(worker, worker.job, instructions)
                    if worker.job is None:
                        del active[connection]
                    progress.worker(worker.number, _doing(worker, instructions, "building"))
                case Built():
                    progress.worker(worker.number, _doing(worker, instructions, "settling"))
                case Decide() as request:
                    waiting.append((worker, request))
                    progress.worker(worker.number, _doing(worker, instructions), request.step)
                case EpisodeResult() as result:
                    if keeper:
                        keeper.ended(result.task, result.start_state)
                    yield result
        if waiting:
            _decide(policy, waiting, instructions, keeper)


def _decide(
    policy: Player,
    waiting: list[tuple[_Worker, Decide]],
    instructions: dict[int, str],
    keeper: MomentKeeper | None,
) -> None:
    """One batch for all that wait; each worker's executor turns its chunk into steps."""
    chunks = policy.predict([request.observation for _, request in waiting])
    for (worker, request), chunk in zip(waiting, chunks, strict=True):
        if request.step == 0:
            worker.executor.reset()
        _send(worker, worker.executor(chunk), instructions)
        if keeper and worker.job:
            moment = Moment(request.step, request.observation, chunk)
            keeper.decision(worker.job.task, request.start_state, moment)


def _receive(worker: _Worker, instructions: dict[int, str]) -> object:
    try:
        message = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        raise _death(worker, instructions) from None
    if isinstance(message, Failure):
        if message.bad_input:
            raise InputError(message.message)
        raise EvaluationError(
            f"worker {worker.number + 1} failed in {_where(worker, instructions)}:\n{message.message}"
        )
    return message


def _send(worker: _Worker, message: object, instructions: dict[int, str]) -> None:
    try:
        worker.connection.send(message)
    except (BrokenPipeError, ConnectionResetError):
        raise _death(worker, instructions) from None


def _death(worker: _Worker, instructions: dict[int, str]) -> EvaluationError:
    worker.process.join(5)
    code, where = worker.process.exitcode, _where(worker, instructions)
    return EvaluationError(f"worker {worker.number + 1} died (exit code {code}) in {where}")


def _where(worker: _Worker, instructions: dict[int, str]) -> str:
    if worker.job is None:
        return "no task yet"
    return f"task {worker.job.task} ({instructions[worker.job.task]}) of {worker.job.suite}"


def _doing(worker: _Worker, instructions: dict[int, str], what: str = "") -> str:
    return f"{what} {instructions[worker.job.task]}".strip() if worker.job else "done"


def _chosen(instructions: list[str], tasks: Sequence[int] | None, suite: str) -> dict[int, str]:
    chosen = list(range(len(instructions))) if tasks is None else list(dict.fromkeys(tasks))
    for task in chosen:
        if not 0 <= task < len(instructions):
            raise InputError(f"{suite} has tasks 0 to {len(instructions) - 1}, there is no task {task}")
    return {task: instructions[task] for task in chosen}


@contextmanager
def _processes(count: int, policy: Player, setup: Setup) -> Iterator[list[_Worker]]:
    """Starts the workers; on the way out, however that comes, none is left running."""
    context = multiprocessing.get_context("spawn")
    pool: list[_Worker] = []
    try:
        with _one_thread_each():
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=run_worker, args=(theirs, setup), daemon=True)
                process.start()
                theirs.close()  # else a worker's death would never reach us as the end of its stream
                pool.append(_Worker(number, process, ours, policy.new_executor()))
        yield pool
        for worker in pool:
            worker.process.join(10)
    finally:
        for worker in pool:
            worker.connection.close()
            worker.process.terminate()
        for worker in pool:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one core each: Mesa's software renderer and NumPy would take all of them."""
    names = ("LP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    added = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
