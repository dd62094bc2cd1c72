"""A thread that does what can wait, one call after another, and drops calls rather than fall behind."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

Call = Callable[[], object]


class Background:
    """Runs calls in order. A call that fails is told in the log, and the next one goes on.

    most: calls that may wait at a time. idle: is called after so many `seconds` without a call.
    """

    def __init__(self, most: int, idle: Call = lambda: None, seconds: float = 5.0) -> None:
        self._most = most
        self._idle = idle
        self._seconds = seconds
        self._waiting: deque[Call] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="rerun", daemon=True)
        self._thread.start()

    def offer(self, call: Call) -> bool:
        """Takes a call for later; False where too many wait. It returns at once, in any thread."""
        with self._change:
            if self._closed or len(self._waiting) >= self._most:
                return False
            self._waiting.append(call)
            self._change.notify()
        return True

    def require(self, call: Call) -> None:
        """Takes a call that may not be left out, however many wait."""
        with self._change:
            self._waiting.append(call)
            self._change.notify()

    def close(self, timeout: float = 10.0) -> bool:
        """Does what waits and ends; False where that took longer than `timeout` seconds."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception:
                log.exception("A part of a Rerun recording could not be written; it is left out.")

    def _next(self) -> Call | None:
        with self._change:
            if not self._waiting and not self._closed:
                self._change.wait(self._seconds)
            if self._waiting:
                return self._waiting.popleft()
            return None if self._closed else self._idle
