"""Work that threads do a little ahead of the one who takes the results, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def threads_ahead(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[Future[R]]:
    """The result of each item, in their order; asking for it raises what the function raised.

    As many are at work or waiting to be taken as there are threads, so that results do not pile up. What has not
    begun where the taker stops is not begun.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running = deque(pool.submit(function, item) for item in islice(waiting, threads))
        try:
            while running:
                yield running.popleft()
                running.extend(pool.submit(function, item) for item in islice(waiting, 1))
        finally:
            for future in running:
                future.cancel()
