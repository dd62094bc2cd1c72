"""The engine behind all protocols: one model, and batches of whatever waits in front of it.

A request that fails, fails alone.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np

from spatialvla.errors import InputError
from spatialvla.serving.engine.counters import Metrics
from spatialvla.serving.engine.request_queue import RequestQueue
from spatialvla.serving.engine.requests import Answer, ChunkRequest, Timings
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.failures import DeadlineExceeded, Draining, InternalError, UnsafeAction, outcome
from spatialvla.types import ActionChunk, Observation

log = logging.getLogger(__name__)
TokenRows = Sequence[np.ndarray | None]
"""Token numbers on the action grid for each row, (steps, 3), or None where a row has none."""


class Predictor(Protocol):
    """What the engine needs of a policy."""

    def predict(
        self,
        observations: Sequence[Observation],
        *,
        committed: TokenRows | None = None,
        drafts: TokenRows | None = None,
    ) -> list[ActionChunk]:
        """A chunk for each observation, as `Policy.predict`."""
        ...


@dataclass
class _Job:
    request: ChunkRequest
    client: Hashable
    prepared_in: float
    future: Future[Answer] = field(default_factory=Future)
    queued: float = field(default_factory=perf_counter)


class Engine:
    """Batches the requests of many clients for one policy.

    prepare: checks a request and does, in threads, what needs no model; it raises InputError for a bad one.
    """

    def __init__(
        self,
        policy: Predictor,
        *,
        prepare: Callable[[ChunkRequest], ChunkRequest] = lambda request: request,
        settings: EngineSettings | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        settings = settings or EngineSettings()
        self.policy = policy
        self.metrics = metrics or Metrics()
        self.threads = ThreadPoolExecutor(settings.threads, "prepare")
        self._prepare = prepare
        self._queue: RequestQueue[_Job] = RequestQueue(settings)
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    # ------------------------------------------------------------------ life

    def start(self, warm_up: Sequence[ChunkRequest] = ()) -> None:
        """Runs the warm-up, alone and as a full batch, then accepts requests.

        Raises what the policy raises: a server whose warm-up fails must not start.
        """
        for request in warm_up:
            prepared = self._prepare(request)
            for size in dict.fromkeys((1, self.settings.max_batch)):
                for chunk in self._predict([prepared] * size):
                    require_finite(chunk)
        self._worker.start()
        self.metrics.ready.set(1)

    @property
    def settings(self) -> EngineSettings:
        """Sizes and waits; new ones hold from the next batch on, except for `threads`."""
        return self._queue.settings

    @settings.setter
    def settings(self, settings: EngineSettings) -> None:
        self._queue.settings = settings

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self._worker.is_alive() and not self._queue.closed

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
        self.threads.shutdown(wait=False, cancel_futures=True)
        return not self._worker.is_alive() and not left

    # -------------------------------------------------------------- requests

    def submit(self, request: ChunkRequest, *, client: Hashable) -> Future[Answer]:
        """Prepares the request in the caller's thread and queues it. Cancelling the future takes it back.

        client: whose turn it is when many wait: a connection. Raises InputError, Busy or Draining at once.
        """
        began = perf_counter()
        try:
            self._queue.check_room(client)  # before the work
            prepared = self._prepare(request)
            job = _Job(prepared, client, perf_counter() - began)
            # A sensor's depth comes along for all rows of a batch or for none.
            self._queue.add(client, prepared.observation.depth is not None, job)
        except Exception as error:
            self.metrics.request(outcome(error))
            raise
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
            chunks = self._predict([job.request for job in jobs])
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

    def _predict(self, requests: list[ChunkRequest]) -> list[ActionChunk]:
        chunks = self.policy.predict(
            [request.observation for request in requests],
            committed=_rows([request.committed for request in requests]),
            drafts=_rows([request.draft for request in requests]),
        )
        if len(chunks) != len(requests):
            raise RuntimeError(f"the policy answered {len(requests)} observations with {len(chunks)} chunks")
        return chunks

    def _fail(self, job: _Job, error: Exception) -> None:
        self.metrics.request(outcome(error))
        job.future.set_exception(error)


def require_finite(chunk: ActionChunk) -> None:
    """Raises UnsafeAction if a number of the actions is NaN or infinite."""
    if not np.isfinite(chunk.actions).all():
        raise UnsafeAction("The policy's actions contain NaN or infinity; none of them is sent.")


def _rows(tokens: list[np.ndarray | None]) -> TokenRows | None:
    """None where no row has tokens: a list of nothing is no draft, and yet costs the passes of one."""
    return tokens if any(row is not None for row in tokens) else None


def _for_client(error: Exception) -> Exception:
    """Bad input is told as it is; of everything else the client learns a number, and the log the rest."""
    if isinstance(error, InputError):
        return error
    number = secrets.token_hex(4)
    log.error("Inference failed (%s)", number, exc_info=error)
    return InternalError(f"Inference failed; the server's log has details under {number}.")
