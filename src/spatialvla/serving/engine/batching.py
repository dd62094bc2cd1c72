"""The engine behind all protocols: one model, and batches of whatever waits in front of it.

A request that fails, fails alone.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np

from spatialvla.collation import Prepared
from spatialvla.errors import InputError, NotFiniteError
from spatialvla.execution import Executor
from spatialvla.serving.engine.counters import Metrics
from spatialvla.serving.engine.fair_threads import FairThreads
from spatialvla.serving.engine.request_queue import RequestQueue
from spatialvla.serving.engine.requests import Answer, PolicyRequest, Timings
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.engine.turns import Client
from spatialvla.serving.failures import (
    Busy,
    DeadlineExceeded,
    Draining,
    InternalError,
    UnsafeAction,
    outcome,
)
from spatialvla.types import ActionChunk, Observation

log = logging.getLogger(__name__)


class Predictor(Protocol):
    """What the engine needs of a policy."""

    def prepare(self, observation: Observation, committed: np.ndarray | None = None) -> Prepared:
        """Checks a request and brings it to the model's size, as `Policy.prepare`; in several threads."""

    def decide(
        self, observations: Sequence[Prepared], executors: Sequence[Executor]
    ) -> Sequence[ActionChunk]:
        """A chunk for each observation with what its executor knows, as `Policy.decide`."""


@dataclass
class _Job:
    request: PolicyRequest
    prepared: Prepared
    client: Client
    prepared_in: float
    future: Future[Answer] = field(default_factory=Future)
    queued: float = field(default_factory=perf_counter)


class Engine:
    """Batches the requests of many clients for one policy.

    check: raises InputError for an observation that is refused before any work is done for it.
    """

    def __init__(
        self,
        policy: Predictor,
        *,
        check: Callable[[Observation], None] = lambda observation: None,
        settings: EngineSettings | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        settings = settings or EngineSettings()
        self.policy = policy
        self.metrics = metrics or Metrics()
        self.threads = FairThreads(settings.threads)
        self._check = check
        self._leaving = False
        self._queue: RequestQueue[_Job] = RequestQueue(settings)
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    # ------------------------------------------------------------------ life

    def start(self, warm_up: Sequence[PolicyRequest] = ()) -> None:
        """Runs the warm-up, alone and as a full batch, then accepts requests.

        Raises what the policy raises: a server whose warm-up fails must not start.
        """
        for request in warm_up:
            prepared = self.policy.prepare(request.observation)
            for size in dict.fromkeys((1, self.settings.max_batch)):
                for chunk in self.policy.decide([prepared] * size, [request.executor] * size):
                    require_finite(chunk)
        self._worker.start()
        self.metrics.ready.set(1)

    @property
    def settings(self) -> EngineSettings:
        """Sizes and waits. Setting them changes all but `threads`, from the next batch on."""
        return self._queue.settings

    @settings.setter
    def settings(self, settings: EngineSettings) -> None:
        self._queue.settings = settings

    @property
    def ready(self) -> bool:
        """Whether new clients may come."""
        return self._worker.is_alive() and not self._queue.closed and not self._leaving

    def leave(self) -> None:
        """Says that the server is about to stop; requests are accepted until `stop_accepting`."""
        self._leaving = True
        self.metrics.ready.set(0)

    def stop_accepting(self) -> None:
        """From now on new requests are refused with Draining; accepted ones are still answered."""
        self._queue.close()
        self.metrics.ready.set(0)

    def drain(self, timeout: float = 30.0) -> bool:
        """Accepts nothing more and answers what is waiting; False if that took longer than `timeout` seconds.

        What is then still waiting is refused.
        """
        self.stop_accepting()
        if self._worker.is_alive():
            self._worker.join(timeout)
        left = self._queue.take_all()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                self._fail(job, Draining("The server is shutting down."))
        self.threads.close()
        return not self._worker.is_alive() and not left

    # -------------------------------------------------------------- requests

    def submit(self, request: PolicyRequest, *, client: Client) -> Future[Answer]:
        """Prepares the request in the caller's thread and queues it. Canceling the future takes it back.

        client: whose turn it is when many wait. Raises InputError, Busy or Draining at once.
        """
        began = perf_counter()
        try:
            self._queue.check_room(client)  # before the work
            self._check(request.observation)
            prepared = self.policy.prepare(request.observation, request.committed)
            job = _Job(request, prepared, client, perf_counter() - began)
            pushed_out = self._queue.add(client, _kind(prepared), job)
        except Exception as error:
            self.metrics.request(outcome(error))
            raise
        if pushed_out is not None and pushed_out.future.set_running_or_notify_cancel():
            self._fail(pushed_out, Busy("The server is busy, and others have fewer requests waiting."))
        self.metrics.stage("prepare", job.prepared_in)
        self.metrics.queued.set(len(self._queue))
        return job.future

    # ---------------------------------------------------------------- worker

    def _work(self) -> None:
        while (jobs := self._queue.next_batch()) is not None:
            self.metrics.queued.set(len(self._queue))
            jobs = [job for job in jobs if self._still_wanted(job)]
            if jobs:
                began = perf_counter()
                self._answer(jobs)
                self._queue.expect({job.client for job in jobs}, perf_counter() - began)

    def _still_wanted(self, job: _Job) -> bool:
        if not job.future.set_running_or_notify_cancel():
            self.metrics.request("cancelled")
            return False
        waited = perf_counter() - job.queued
        if waited > job.request.timeout:
            self._fail(job, DeadlineExceeded(f"The request waited for {waited:.1f} s, longer than it may."))
            return False
        return True

    def _answer(self, jobs: list[_Job]) -> None:
        began = perf_counter()
        try:
            chunks = self._decide(jobs)
        except Exception as error:
            if len(jobs) > 1:
                log.warning("A batch of %d failed (%s); its requests are tried one by one.", len(jobs), error)
                for job in jobs:
                    self._answer([job])
            else:
                self._fail(jobs[0], _for_client(error))
            return
        took = perf_counter() - began
        self.metrics.batch(len(jobs))
        for job, chunk in zip(jobs, chunks, strict=True):
            try:
                require_finite(chunk)
            except UnsafeAction as error:
                log.error("%s Instruction: %r", error, job.request.observation.instruction)
                self._fail(job, error)
                continue
            queued = began - job.queued
            self.metrics.stage("queue", queued)
            self.metrics.stage("infer", took)
            self.metrics.request("ok")
            timings = Timings(job.prepared_in * 1000, queued * 1000, took * 1000, len(jobs))
            job.future.set_result(Answer(job.request, chunk, timings))

    def _decide(self, jobs: list[_Job]) -> Sequence[ActionChunk]:
        chunks = self.policy.decide([job.prepared for job in jobs], [job.request.executor for job in jobs])
        if len(chunks) != len(jobs):
            raise RuntimeError(f"The policy answered {len(jobs)} observations with {len(chunks)} chunks.")
        return chunks

    def _fail(self, job: _Job, error: Exception) -> None:
        self.metrics.request(outcome(error))
        job.future.set_exception(error)


def _kind(prepared: Prepared) -> Hashable:
    """Of a row's cameras, which are missing, and of which a sensor measured depth.

    Rows of one kind share batches: none waits for another's depth to be estimated, or for a camera that it lacks.
    """
    return tuple(None if view is None else view.depth is not None for view in prepared.views)


def require_finite(chunk: ActionChunk) -> None:
    """Raises UnsafeAction if a number of the actions is NaN or infinite."""
    if not np.isfinite(chunk.actions).all():
        raise UnsafeAction("The policy's actions contain NaN or infinity; none of them is sent.")


def _for_client(error: Exception) -> Exception:
    """Bad input is told as it is; of everything else the client learns a number, and the log the rest."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, NotFiniteError):
        log.error("%s", error)
        return UnsafeAction(str(error))
    number = secrets.token_hex(4)
    log.error("Inference failed (%s)", number, exc_info=error)
    return InternalError(f"Inference failed; the server's log has details under {number}.")
