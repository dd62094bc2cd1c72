"""The asynchronous loop: the next chunk is inferred while the robot executes the last one."""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from spatialvla_client.schedule import ChunkLike, ChunkRequest, Schedule, WhenLate

ObservationT = TypeVar("ObservationT")
"""What the policy's side takes; the loop only passes it on."""

LATENCY_QUANTILE = 0.9
"""Of the recent latencies: this one is covered by the committed steps."""
RECENT = 50
MOST_STALE = 3
"""Answers in a row that may come too late before the loop says that it makes no sense."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopStatistics:
    """Counts and latencies of a loop since it was made.

    requests: inferences that were started.
    latency_p50_s, latency_p95_s: median and 95 % quantile of the last 50 inferences, in seconds from the
    request to the answer; NaN before the first.
    committed: steps that the next request will commit to, if the plan has that many.
    late: chunks that arrived after the steps committed for them had been executed.
    holds: steps for which no action was left.
    dropped: answers that belonged to an earlier episode, or whose steps were all past.
    stale: answers and plans that were given up because their observation was too old.
    overruns: steps of `run` that began too late.
    """

    requests: int
    latency_p50_s: float
    latency_p95_s: float
    committed: int
    late: int
    holds: int
    dropped: int
    stale: int
    overruns: int


@dataclass(frozen=True)
class _Pending:
    seen: float
    request: ChunkRequest
    answer: Future[tuple[ChunkLike, float]]


class AsynchronousLoop(Generic[ObservationT]):
    """Drives a robot at a fixed rate while one thread infers.

    At most one inference is under way. Some steps of the plan will be executed before its answer arrives.
    With `commit` they are sent along as tokens, so the new chunk begins with them and takes over without a jump.
    Their number follows the measured latencies. What was planned from too old an observation is not executed:
    the robot holds still until a newer one is decided on.

        with AsynchronousLoop(client.infer, control_hz=20) as loop:
            loop.run(camera.observe, robot.execute)

    Use it from one thread only. An error of an inference is raised by the next `act`, and the loop can go on
    after it.
    """

    def __init__(
        self,
        infer: Callable[[ObservationT, np.ndarray | None], ChunkLike],
        control_hz: float,
        *,
        most_committed: int = 3,
        ask_after: int | None = None,
        commit: bool = False,
        when_late: WhenLate = "hold",
        max_age_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        executor: Executor | None = None,
    ) -> None:
        """infer: (observation, committed tokens (P, 3) or None) -> the chunk from the observation's step on. One with
        a parameter under_way, as `Client.infer`, is told the actions (P, 7) left in the plan, too, or None.

        control_hz: control steps per second.
        most_committed: upper limit of the committed steps; keep it below the length of a chunk.
        ask_after: steps after which the next chunk is asked for. None asks as late as the latency allows, so
        that as much as possible of each chunk is executed.
        commit: asks for chunks that begin with the steps under way. They join smoothly; but a policy may go on as it
        began instead of looking, so try it in simulation first.
        when_late: what the robot does when the plan is used up and no chunk has arrived.
        max_age_s: seconds from an observation to the last action that may follow from it.
        clock, sleep: in seconds; for tests and simulated time.
        executor: runs the inferences; the caller shuts it down. One thread of the loop's own unless given.
        Raises ValueError for numbers that cannot be used.
        """
        if not control_hz > 0:
            raise ValueError(f"control_hz must be positive, not {control_hz}.")
        if most_committed < 1:
            raise ValueError(f"most_committed must be at least 1, not {most_committed}.")
        if ask_after is not None and ask_after < 1:
            raise ValueError(f"ask_after must be at least 1, not {ask_after}.")
        if not max_age_s > 0:
            raise ValueError(f"max_age_s must be positive, not {max_age_s}.")
        self._infer, self._period = _told_under_way(infer), 1 / control_hz
        self._most_committed, self._ask_after, self._commit = most_committed, ask_after, commit
        self._when_late, self._max_age = when_late, max_age_s
        self._clock, self._sleep = clock, sleep
        self._owned = None if executor else ThreadPoolExecutor(1, thread_name_prefix="infer")
        self._executor: Executor = executor or self._owned  # type: ignore[assignment]
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._first_latency = np.nan
        self._pending: _Pending | None = None
        self._asked_at: int | None = None
        self._schedule = Schedule(when_late)
        self._past = [0, 0, 0]  # late, holds and dropped of the episodes before
        self._seen = -math.inf  # when the observation of the plan was made
        self._requests = self._overruns = self._stale = self._stale_in_a_row = 0
        self._closed = False

    def __enter__(self) -> AsynchronousLoop[ObservationT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Waits for the inference under way, drops its answer and ends the thread."""
        self._closed = True
        self._forget_pending()
        if self._owned is not None:
            self._owned.shutdown(wait=True, cancel_futures=True)

    def reset(self) -> None:
        """Starts a new episode: neither the old plan nor a late answer to it is executed.

        Waits for the inference under way, so that the policy can be told of the new episode next.
        """
        self._forget_pending()
        old = self._schedule
        self._past = [a + b for a, b in zip(self._past, (old.late, old.holds, old.dropped), strict=True)]
        self._schedule, self._asked_at = Schedule(self._when_late), None

    def act(self, observe: Callable[[], ObservationT]) -> np.ndarray:
        """The action (7,) to execute now; call it once every control step.

        observe: called only when an inference begins. The first call of an episode waits for its chunk,
        because the robot has not begun to move. Raises what the inference raised, and TimeoutError where
        answers come too late again and again.
        """
        if self._closed:
            raise RuntimeError("This loop is closed; make a new one.")
        self._collect(wait=False)
        self._give_up_old_plan()
        if self._pending is None and self._is_due():
            self._ask(observe)
        while not self._schedule.started:
            self._collect(wait=True)
            if not self._schedule.started:
                self._ask(observe)
        self._give_up_old_plan()  # again: a camera may have taken its time
        return self._schedule.advance()

    def run(
        self,
        observe: Callable[[], ObservationT],
        execute: Callable[[np.ndarray], bool | None],
        steps: int | None = None,
    ) -> int:
        """Acts at the control rate for `steps` steps or until `execute` returns True; returns the steps done.

        A step that begins too late is counted as an overrun, and the control rate is kept from there on.
        """
        done = 0
        due = None
        while steps is None or done < steps:
            action = self.act(observe)
            now = self._clock()
            # The first chunk may take long; time is kept from the first action on.
            due = now if due is None else due
            finished = execute(action)
            done += 1
            if finished:
                break
            due += self._period
            now = self._clock()
            if now > due:
                self._overruns += 1
                due = now
            else:
                self._sleep(due - now)
        return done

    @property
    def committed_steps(self) -> int:
        """Steps that the next request commits to: a high quantile of recent latencies, rounded up."""
        latency = float(np.quantile(self._recent, LATENCY_QUANTILE, method="higher"))
        if math.isnan(latency):
            return 1
        # When the next chunk is asked for, one action is already under way.
        return min(max(1, math.ceil(latency / self._period - 1e-6)), self._most_committed)

    @property
    def statistics(self) -> LoopStatistics:
        """What has been counted and measured so far."""
        schedule, (late, holds, dropped) = self._schedule, self._past
        p50, p95 = np.quantile(self._recent, [0.5, 0.95])
        return LoopStatistics(
            requests=self._requests,
            latency_p50_s=float(p50),
            latency_p95_s=float(p95),
            committed=self.committed_steps,
            late=late + schedule.late,
            holds=holds + schedule.holds,
            dropped=dropped + schedule.dropped,
            stale=self._stale,
            overruns=self._overruns,
        )

    @property
    def _recent(self) -> list[float]:
        # The first inference of an episode may warm up, or wait for the last one of the episode before it.
        return list(self._latencies) or [self._first_latency]

    def _is_due(self) -> bool:
        if self._asked_at is None or self._schedule.remaining <= self.committed_steps:
            return True
        return self._ask_after is not None and self._schedule.ticks - self._asked_at >= self._ask_after

    def _ask(self, observe: Callable[[], ObservationT]) -> None:
        seen = self._clock()
        observation = observe()
        request = self._schedule.request(self.committed_steps)
        committed = request.committed if self._commit else None
        began = self._clock()

        def answer() -> tuple[ChunkLike, float]:
            chunk = self._infer(observation, committed, request.under_way)
            return chunk, self._clock() - began

        self._pending = _Pending(seen, request, self._executor.submit(answer))
        self._asked_at = self._schedule.ticks
        self._requests += 1

    def _collect(self, wait: bool) -> None:
        """Takes the answer if there is one, or waits for it."""
        pending = self._pending
        if pending is None or not (wait or pending.answer.done()):
            return
        self._pending = None
        chunk, latency = pending.answer.result()
        if self._schedule.started:
            self._latencies.append(latency)
        else:
            self._first_latency = latency
        if self._is_too_old(pending.seen):
            self._stale_in_a_row += 1
            if self._stale_in_a_row == MOST_STALE:
                self._stale_in_a_row = 0
                raise TimeoutError(
                    f"{MOST_STALE} answers in a row came more than {self._max_age:g} s after their observation; "
                    "make the policy faster, or raise max_age_s."
                )
            return
        self._stale_in_a_row = 0
        if self._schedule.arrive(pending.request, chunk):
            self._seen = pending.seen

    def _give_up_old_plan(self) -> None:
        schedule = self._schedule
        if schedule.started and not schedule.stopped and self._is_too_old(self._seen):
            schedule.stop()

    def _is_too_old(self, seen: float) -> bool:
        """Whether nothing may be executed any more that follows from what was seen then; counts and tells it."""
        age = self._clock() - seen
        if age <= self._max_age:
            return False
        self._stale += 1
        log.warning("What was seen %.1f s ago is too old to act on (%g s at most).", age, self._max_age)
        return True

    def _forget_pending(self) -> None:
        if self._pending is not None:
            if not self._pending.answer.cancel():
                with suppress(Exception):  # the answer is dropped, and its error with it
                    self._pending.answer.result()
            self._pending = None
            self._past[2] += 1


def _told_under_way(
    infer: Callable[..., ChunkLike],
) -> Callable[[ObservationT, np.ndarray | None, np.ndarray | None], ChunkLike]:
    """The same with the actions under way as a third argument, which are left out where `infer` does not take them."""
    try:
        takes = "under_way" in inspect.signature(infer).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        takes = False

    def told(
        observation: ObservationT, committed: np.ndarray | None, under_way: np.ndarray | None
    ) -> ChunkLike:
        if takes:
            return infer(observation, committed, under_way=under_way)
        return infer(observation, committed)

    return told
