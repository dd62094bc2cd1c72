"""What rank 0 does alone may take hours: the others wait for it without a collective, as long as it lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed.distributed_c10d import Store

_PULSE = "main/pulse"
_BEATS = 10
"""Signs of life of rank 0 in the time after which it counts as dead."""
_LONGEST_PAUSE = 1.0
"""Seconds between two looks at whether rank 0 is done."""


class MainTurns:
    """The turns of rank 0, which all ranks take part in, in the same order."""

    def __init__(self, store: Store, is_main: bool, patience: timedelta) -> None:
        """store: that all ranks have met at. patience: how long rank 0 may show no sign of life in its turn."""
        self.store, self.is_main, self.patience = store, is_main, patience.total_seconds()
        self._turns = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Rank 0 is in this block at once, the others only after it has left.

        Raises RuntimeError on them where rank 0 is gone.
        """
        self._turns += 1
        done = f"main/done/{self._turns}"
        if not self.is_main:
            self._wait(done)
            yield
            return
        over = threading.Event()
        pulse = threading.Thread(target=self._live, args=(over,), daemon=True)
        pulse.start()
        try:
            yield
        finally:
            over.set()
            pulse.join()
            self.store.set(done, "")

    def _live(self, over: threading.Event) -> None:
        while not over.wait(self.patience / _BEATS):
            self.store.add(_PULSE, 1)

    def _wait(self, done: str) -> None:
        heard, began, last = self.store.add(_PULSE, 0), time.monotonic(), time.monotonic()
        while not self.store.check([done]):
            # Short turns are many, and are not to be lengthened by much.
            time.sleep(min(_LONGEST_PAUSE, 0.01 + (time.monotonic() - began) / 10))
            if (now := self.store.add(_PULSE, 0)) != heard:
                heard, last = now, time.monotonic()
            if time.monotonic() - last > self.patience:
                raise RuntimeError(
                    f"Rank 0 has shown no sign of life for {self.patience:.0f} s; look at what it said last, and "
                    "resume the run."
                )
