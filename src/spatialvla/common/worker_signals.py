"""How worker processes end: with their parent, and not by signals that others send."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from multiprocessing import parent_process
from threading import Thread

_REQUESTS = (signal.SIGTERM, signal.SIGINT)


def leave_signals(worker: int) -> None:
    """Call it in a worker process as it starts; `worker` is its number, which nothing depends on.

    Schedulers and terminals signal a whole group at once, and the parent needs its workers until it has
    saved. So a worker ends when its parent asks it to, and not when another process does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # others do not tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_when_parent_asks, daemon=True).start()


def end_with_parent() -> None:
    """Call it in a spawned worker as it starts: where its parent is killed, it ends in the midst of its work."""
    Thread(target=_end_when_parent_is_gone, daemon=True).start()


@contextmanager
def dropping_the_rest(pool: Executor) -> Iterator[None]:
    """An error in this block, or a request to stop, waits for no task of the pool that has not begun."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _end_when_parent_is_gone() -> None:
    parent = parent_process()
    assert parent is not None, "this is no worker"
    parent.join()
    os._exit(1)


def _end_when_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Such signals wait until the end of this block; workers forked in it are protected from the first moment."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
