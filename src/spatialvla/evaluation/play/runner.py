"""Plays a benchmark: worker processes step environments, one batched model decides for all of them."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from rich.console import Console

from spatialvla.common.claims import claimed
from spatialvla.common.terminal import Terminal
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.chosen_tasks import chosen_tasks
from spatialvla.evaluation.benchmarks.protocol import DEPTH_ORIGINS, Benchmark, DepthOrigin
from spatialvla.evaluation.play.decisions import DecisionKeeper, KeptDecision
from spatialvla.evaluation.play.display import EvaluationProgress
from spatialvla.evaluation.play.jobs import Job, plan_jobs
from spatialvla.evaluation.play.messages import Built, Decide, Decided, Idle, Setup
from spatialvla.evaluation.play.pool import EvaluationError, Worker, worker_processes
from spatialvla.evaluation.play.real_time import RealTimeExecutor
from spatialvla.evaluation.play.resume import results_file, resumed, sweep
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.episode_uncertainty import EpisodeUncertainty
from spatialvla.evaluation.results.latency import Latency
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.plan import EpisodeId, Shard
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.evaluation.results.provenance import installed_versions
from spatialvla.execution import Executor
from spatialvla.types import ActionChunk, Observation, Uncertainty
from spatialvla.viz.rerun.recordings import Recordings

__all__ = ["EvaluationError", "Player", "evaluate"]


_Unsure = defaultdict[int, list[tuple[int, Uncertainty]]]
"""Worker number -> step and uncertainty of each decision of the episode it plays."""


class Player(Protocol):
    """What is evaluated: `Policy`, or anything that decides like it."""

    def decide(self, observations: Sequence[Observation], executors: Sequence[Executor]) -> list[ActionChunk]:
        """A chunk for each observation, in one batch, knowing what each episode's executor remembers."""

    def new_executor(self) -> Executor:
        """What one episode remembers, and which steps of its chunks are executed."""


def evaluate(
    policy: Player,
    suite: str,
    episodes_per_task: int,
    *,
    benchmark: Benchmark,
    settings: PolicySettings,
    out: Path,
    workers: int = 2,
    depth: DepthOrigin = "estimate",
    tasks: Sequence[int] | None = None,
    shard: Shard | None = None,
    name: str = "policy",
    checkpoint: str | None = None,
    policy_path: str = "",
    command: str = "",
    videos: bool = True,
    keeper: DecisionKeeper | None = None,
    recordings: Recordings | None = None,
    console: Console | None = None,
) -> Results:
    """Plays `episodes_per_task` episodes of each task and writes `out`/results.json and `out`/videos/.

    Episode i of a task starts from stored start state i. Requests that wait at the same time become one
    batch. results.json is rewritten after every episode, so a run that was interrupted, or killed, leaves
    what it found, and goes on from there when it is started again: for that a `checkpoint` has to be given.

    settings: how the policy is used, of a `Policy` what `settings_of` says; stored with the results, and an
    evaluation goes on only with the same.
    depth: "estimate" lets the model estimate it, "simulator" hands it the true depth.
    tasks: task numbers, all of the suite's if None. shard: play only this part, into a file of its own.
    name, checkpoint, policy_path, command: stored with the results. recordings: of Rerun, if any are made.
    Raises InputError for options that cannot be used and where `out` holds results of something else,
    EvaluationError when a worker dies.
    """
    if depth not in DEPTH_ORIGINS:
        raise InputError(f"depth must be one of {', '.join(DEPTH_ORIGINS)}, got {depth!r}.")
    if workers < 1:
        raise InputError(f"An evaluation needs at least 1 of workers, got {workers}.")
    asked = Results(
        suite=suite,
        policy=name,
        checkpoint=checkpoint,
        depth=depth,
        episodes_per_task=episodes_per_task,
        tasks=chosen_tasks(benchmark, suite, tasks, episodes_per_task),
        conventions=benchmark.conventions(suite),
        versions=installed_versions(benchmark.packages),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=settings,
        shard=shard,
        policy_path=policy_path,
        command=command,
    )
    path, folder = results_file(out, shard), out / "videos"
    with claimed(path, "evaluation"):
        results = resumed(path, asked)
        sweep(path, folder, results.missing)
        if keeper:
            keeper.expect(results.first_start_states, {episode.id for episode in results.episodes})
        results.save(path)
        if results.complete:
            return results
        jobs = plan_jobs(suite, results.missing, workers)
        setup = Setup(
            benchmark, results.conventions, depth == "simulator", folder if videos else None, recordings
        )

        def new_executor(episode: EpisodeId) -> Executor:
            executor, latency = policy.new_executor(), settings.latency
            if latency is None and settings.execution.mode == "async":
                latency = Latency.always(settings.execution.latency_steps)
            if latency is not None:
                gripper = results.conventions.settle_action[-1]
                executor = RealTimeExecutor(settings.execution, latency, episode, gripper)
            executor.keeps_depth = recordings is not None
            return executor

        longest = max(results.conventions.limit(task) for task in results.tasks)
        workers, before, began = min(workers, len(jobs)), results, time.monotonic()
        progress = EvaluationProgress(console or Terminal(stderr=True), results, workers, longest)
        with worker_processes(workers, setup, results.tasks) as pool, progress:
            finished = []
            for result in _play(policy, new_executor, pool, jobs, progress, keeper, recordings):
                finished.append(result)
                results = before.with_episodes(finished, time.monotonic() - began)
                results.save(path)
                progress.finished(result, results.tasks[result.task])
    return results


def _play(
    policy: Player,
    new_executor: Callable[[EpisodeId], Executor],
    pool: list[Worker],
    jobs: list[Job],
    progress: EvaluationProgress,
    keeper: DecisionKeeper | None,
    recordings: Recordings | None,
) -> Iterator[EpisodeResult]:
    """Answers the workers' messages until every job is done; yields episodes as they end."""
    queue = deque(jobs)
    active = {worker.connection: worker for worker in pool}
    executors: dict[int, Executor] = {}
    unsure: _Unsure = defaultdict(list)
    while active:
        waiting: list[tuple[Worker, Decide]] = []
        for connection in wait(list(active)):
            assert isinstance(connection, Connection)
            worker = active[connection]
            match worker.receive():
                case Idle():
                    worker.job = queue.popleft() if queue else None
                    worker.send(worker.job)
                    if worker.job is None:
                        del active[connection]
                    progress.worker(worker.number, worker.doing("building"))
                case Built():
                    progress.worker(worker.number, worker.doing("settling"))
                case Decide() as request:
                    waiting.append((worker, request))
                    progress.worker(worker.number, worker.doing(), request.step)
                case EpisodeResult() as result:
                    if keeper:
                        keeper.ended(result.task, result.start_state)
                    if told := unsure.pop(worker.number, None):
                        result = replace(result, uncertainty=EpisodeUncertainty.of(told))
                    yield result
        for worker, request in waiting:
            if request.step == 0 and worker.job:
                executors[worker.number] = new_executor(EpisodeId(worker.job.task, request.start_state))
        if waiting:
            _decide(policy, waiting, executors, unsure, keeper, recordings)


def _decide(
    policy: Player,
    waiting: list[tuple[Worker, Decide]],
    executors: dict[int, Executor],
    unsure: _Unsure,
    keeper: DecisionKeeper | None,
    recordings: Recordings | None,
) -> None:
    """One batch for all that wait; each worker's executor turns its chunk into steps."""
    own = [executors[worker.number] for worker, _ in waiting]
    chunks = policy.decide([request.observation for _, request in waiting], own)
    for (worker, request), executor, chunk in zip(waiting, own, chunks, strict=True):
        estimates = recordings.rig.estimates(executor.depth) if recordings else {}
        worker.send(Decided(executor(chunk), chunk, estimates))
        if chunk.uncertainty is not None:
            unsure[worker.number].append((request.step, chunk.uncertainty))
        if keeper and worker.job:
            decision = KeptDecision(request.step, request.observation, chunk)
            keeper.add(worker.job.task, request.start_state, decision)
