"""The engine behind all protocols: one model, one queue, batches of whatever waits.

Requests that come while a batch runs make up the next one, so a lone client never waits for others. A queue is
kept for each client and they take turns. A request that fails, fails alone.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from spatialvla.errors import InputError
from spatialvla.serving.engine.counters import Metrics
from spatialvla.serving.engine.turns import Turns
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


@dataclass(frozen=True)
class Request:
    """One chunk asked for.

    committed: (P, 3) token numbers of steps already on their way to the robot; the chunk begins with them.
    draft: (T, 3) a guess of the chunk, which makes decoding faster and changes nothing.
    timeout: seconds it may wait for the model.
    """

    observation: Observation
    committed: np.ndarray | None = None
    draft: np.ndarray | None = None
    timeout: float = 30.0


@dataclass(frozen=True)
class Timings:
    """Where a request's time went, milliseconds; infer_ms is the time of its whole batch, of `batch` requests."""

    prepare_ms: float
    queue_ms: float
    infer_ms: float
    batch: int


@dataclass(frozen=True)
class Answer:
    """A request's chunk: finite, whole, not yet limited for a robot."""

    request: Request
    chunk: ActionChunk
    timings: Timings


@dataclass(frozen=True)
class EngineSettings:
    """max_batch: requests in one inference. max_queue: requests waiting in all; max_per_client: of one client.

    gather_ms: how long, after a batch, the clients it answered are waited for before the next begins; never
    longer than `gather_share` of that batch's time. threads: prepare observations.
    """

    max_batch: int = 16
    max_queue: int = 128
    max_per_client: int = 2
    gather_ms: float = 8.0
    gather_share: float = 0.15
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "max_per_client", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}.")


Tokens = Sequence[np.ndarray | None] | None


class Predictor(Protocol):
    """What the engine needs of a policy."""

    def predict(
        self, observations: Sequence[Observation], *, committed: Tokens = None, drafts: Tokens = None
    ) -> list[ActionChunk]: ...


@dataclass
class _Job:
    request: Request
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
        prepare: Callable[[Request], Request] = lambda request: request,
        settings: EngineSettings = EngineSettings(),
        metrics: Metrics | None = None,
    ) -> None:
        self.policy = policy
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.threads = ThreadPoolExecutor(settings.threads, "prepare")
        self._prepare = prepare
        self._waiting: Turns[_Job] = Turns()
        self._changed = threading.Condition()
        self._closing = False
        self._last_clients: set[Hashable] = set()
        self._gather_until = 0.0
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)

    # ------------------------------------------------------------------ life

    def start(self, warm_up: Sequence[Request] = ()) -> None:
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
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self._worker.is_alive() and not self._closing

    def stop_accepting(self) -> None:
        """From now on new requests are refused with Draining; accepted ones are still answered."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.metrics.ready.set(0)

    def drain(self, timeout: float = 30.0) -> bool:
        """Accepts nothing more and answers what is waiting; False if that took longer than `timeout` seconds.

        What is then still waiting is refused.
        """
        self.stop_accepting()
        if self._worker.is_alive():
            self._worker.join(timeout)
        with self._changed:
            left = self._waiting.take_all()
        for job in left:
            if job.future.set_running_or_notify_cancel():
                self._fail(job, Draining("The server is shutting down."))
        self.threads.shutdown(wait=False, cancel_futures=True)
        return not self._worker.is_alive() and not left

    # -------------------------------------------------------------- requests

    async def predict(self, request: Request, *, client: Hashable) -> Answer:
        """The answer to one request. Raises InputError for a bad request, ServingError for other reasons."""
        loop = asyncio.get_running_loop()
        future = await loop.run_in_executor(self.threads, lambda: self.submit(request, client=client))
        return await asyncio.wrap_future(future)

    def submit(self, request: Request, *, client: Hashable) -> Future[Answer]:
        """Prepares the request in the caller's thread and queues it. Cancelling the future takes it back.

        client: whose turn it is when many wait: a connection. Raises InputError, Busy or Draining at once.
        """
        began = perf_counter()
        try:
            self._check_room(client)  # before the work
            prepared = self._prepare(request)
            job = _Job(prepared, client, perf_counter() - began)
            with self._changed:
                self._check_room(client)
                # Batches hold jobs of one kind: a sensor's depth comes along for all rows or for none.
                self._waiting.add(client, prepared.observation.depth is not None, job)
                self._changed.notify_all()
        except Exception as error:
            self.metrics.request(outcome(error))
            raise
        self.metrics.stage("prepare", job.prepared_in)
        self.metrics.queued.set(len(self._waiting))
        return job.future

    def _check_room(self, client: Hashable) -> None:
        if self._closing:
            raise Draining("The server is shutting down.")
        if len(self._waiting) >= self.settings.max_queue:
            raise Busy(f"The server is busy: {len(self._waiting)} requests are waiting. Try again later.")
        if self._waiting.of(client) >= self.settings.max_per_client:
            raise Busy(
                f"This connection already has {self.settings.max_per_client} requests waiting; "
                "wait for their answers."
            )

    # ---------------------------------------------------------------- worker

    def _work(self) -> None:
        while (jobs := self._next_batch()) is not None:
            jobs = [job for job in jobs if self._still_wanted(job)]
            if jobs:
                began = perf_counter()
                self._answer(jobs)
                took = perf_counter() - began
                wait = min(self.settings.gather_ms / 1000, self.settings.gather_share * took)
                self._gather_until = perf_counter() + wait
                self._last_clients = {job.client for job in jobs}

    def _next_batch(self) -> list[_Job] | None:
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return None
                self._changed.wait()
            # Clients that were answered together come back together, give or take their own few milliseconds.
            # Starting with the first of them would leave the others to a second batch, for ever after.
            while (
                len(self._waiting) < self.settings.max_batch
                and not self._closing
                and (left := self._gather_until - perf_counter()) > 0
                and not all(self._waiting.of(client) for client in self._last_clients)
            ):
                self._changed.wait(left)
            jobs = self._waiting.take(self.settings.max_batch)
        self.metrics.queued.set(len(self._waiting))
        return jobs

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

    def _predict(self, requests: list[Request]) -> list[ActionChunk]:
        given: dict[str, Any] = {
            name: rows
            for name, rows in (
                ("committed", [request.committed for request in requests]),
                ("drafts", [request.draft for request in requests]),
            )
            if any(row is not None for row in rows)
        }
        chunks = self.policy.predict([request.observation for request in requests], **given)
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


def _for_client(error: Exception) -> Exception:
    """Bad input is told as it is; of everything else the client learns a number, and the log the rest."""
    if isinstance(error, InputError):
        return error
    number = secrets.token_hex(4)
    log.error("Inference failed (%s)", number, exc_info=error)
    return InternalError(f"Inference failed; the server's log has details under {number}.")
