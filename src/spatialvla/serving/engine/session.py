"""One episode of one connection: what is executed of each chunk, and what the next request builds on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from spatialvla.execution import Executor
from spatialvla.frozen_picture import FrozenPicture
from spatialvla.serving.engine.batching import Engine
from spatialvla.serving.engine.drift_watch import DriftWatch
from spatialvla.serving.engine.requests import Answer, PolicyRequest, Timings
from spatialvla.serving.engine.turns import Client
from spatialvla.serving.engine.watching import WatchedDecision, Watcher
from spatialvla.serving.failures import TooUnsure
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.guard.sureness import GO_ON, StopAbove, Sureness
from spatialvla.types import Observation, Uncertainty

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """What to send. actions: (k, 7) within the robot's limits. tokens: (k, 3) that they came from.

    Averages of several chunks have the newest one's tokens, and steps that stand still have −1.
    uncertainty: of the whole chunk; None where the policy does not tell it.
    """

    actions: np.ndarray
    tokens: np.ndarray
    timings: Timings
    uncertainty: Uncertainty | None = None


class Session:
    """State of one connection; requests of a session come one after the other.

    client: whose turns its requests take. first_camera: what the policy calls the one that `image` is of.
    watchers: are told of each decision.
    stop_above: how unsure the policy may be.
    """

    def __init__(
        self,
        engine: Engine,
        executor: Executor,
        limits: Limits,
        first_camera: str,
        address: str = "",
        watchers: Sequence[Watcher] = (),
        stop_above: StopAbove = GO_ON,
    ) -> None:
        self.client = Client(id(self), address)
        self._first_camera = first_camera
        self._engine = engine
        self._executor = executor
        self._limits = limits
        self._watchers = watchers
        self._pictures = FrozenPicture()
        self._sureness = Sureness(stop_above)
        self._drift = DriftWatch(engine.metrics, partial(engine.threads.submit, self.client), address)

    def reset(self) -> None:
        """A new episode: what was seen and decided before counts no more."""
        self.end()
        self._executor.reset()
        self._pictures.reset()
        self._sureness.reset()

    def end(self) -> None:
        """Says what there is to say of an episode that is over."""
        self._drift.conclude()
        for watcher in self._watchers:
            watcher.ended(self.client)

    def submit(
        self, observation: Observation, *, committed: np.ndarray | None = None, timeout: float = 30.0
    ) -> Future[Answer]:
        """Queues a request from any thread; give its answer to `finish`. Raises as `Engine.submit`.

        committed: (P, 3) tokens of steps already on their way to the robot. timeout: seconds it may wait.
        """
        self._executor.keeps_depth = any(watcher.watching for watcher in self._watchers)
        request = PolicyRequest(observation, self._executor, committed, timeout)
        return self._engine.submit(request, client=self.client)

    def finish(
        self,
        answer: Answer,
        *,
        position: np.ndarray | None = None,
        fingertips: np.ndarray | None = None,
        under_way: np.ndarray | None = None,
    ) -> Decision:
        """What to execute of an answer. position: (3,) meters of the gripper, where the client tells it.

        fingertips: (3,) meters in the robot's frame, where that follows from what the client tells.
        under_way: (P, 7) as of `Limits.apply`.
        A client that committed steps merges chunks itself, so it gets the whole chunk. Raises InputError
        where the limits need a position and there is none, and where a camera has stopped; UnsafeAction for
        actions that are not finite, TooUnsure where the policy has become less sure than the server acts on.
        """
        began = perf_counter()
        self._limits.require_position(position)
        cameras = answer.request.observation.cameras(self._first_camera)
        self._pictures.check(cameras, position)
        if fingertips is not None:
            self._drift.add(cameras, fingertips)
        chunk = answer.chunk
        if chunk.uncertainty is not None:
            self._engine.metrics.unsure(chunk.uncertainty)
            if reason := self._sureness.why_stop(chunk.uncertainty):
                self._engine.metrics.request(TooUnsure.outcome)
                raise TooUnsure(reason)
        committed = answer.request.committed
        if committed is None or committed.size == 0:
            executed = self._executor.execute(chunk)
        else:
            self._executor.remember(chunk, len(chunk.actions))
            executed = chunk
        limited, changed = self._limits.apply(executed.actions, position, under_way)
        for limit, steps in changed.items():
            self._engine.metrics.clamped(limit, steps)
        for watcher in self._watchers:
            depth = dict(self._executor.depth) if watcher.watching else {}
            try:
                watcher.decided(WatchedDecision(self.client, answer, limited, changed, fingertips, depth))
            except Exception:  # no robot waits for whoever only looks on
                log.exception("A decision could not be shown")
        self._engine.metrics.stage("post", perf_counter() - began)
        return Decision(limited, executed.tokens, answer.timings, chunk.uncertainty)

    async def act(
        self,
        observation: Observation,
        *,
        position: np.ndarray | None = None,
        fingertips: np.ndarray | None = None,
        timeout: float = 30.0,
    ) -> Decision:
        """Observation in, actions out, as `submit` and `finish`. Raises InputError or ServingError."""
        submitted = self._engine.threads.submit(
            self.client, lambda: self.submit(observation, timeout=timeout)
        )
        future = await asyncio.wrap_future(submitted)
        answer = await asyncio.wrap_future(future)
        return self.finish(answer, position=position, fingertips=fingertips)
