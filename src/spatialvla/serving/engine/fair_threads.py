"""A few threads that read and check what clients send, in turns of the clients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from spatialvla.serving.engine.turns import Client, Turns

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Job:
    call: Callable[[], Any]
    future: Future[Any]


class FairThreads:
    """Runs calls in a few threads. A client whose calls take long delays its own, not those of the others."""

    def __init__(self, count: int) -> None:
        self._turns: Turns[_Job] = Turns()
        self._changed = threading.Condition()
        self._closed = False
        for number in range(count):
            threading.Thread(target=self._work, name=f"prepare-{number}", daemon=True).start()

    def submit(self, client: Client, call: Callable[[], Result]) -> Future[Result]:
        """The result of a call, once it is the client's turn. Raises RuntimeError after `close`."""
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("The threads have ended.")
            self._turns.add(client, None, _Job(call, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Takes back what waits, and ends the threads behind what they are at."""
        with self._changed:
            self._closed = True
            for job in self._turns.take_all():
                job.future.cancel()
            self._changed.notify_all()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            if job.future.set_running_or_notify_cancel():
                try:
                    job.future.set_result(job.call())
                except BaseException as error:
                    job.future.set_exception(error)
            del job  # else what it holds would stay until the next one

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._turns:
                if self._closed:
                    return None
                self._changed.wait()
            (job,) = self._turns.take(1)
            return job
