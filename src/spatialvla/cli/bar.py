"""A bar on stderr for verbs that go through many episodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Report(Protocol):
    """Moves the bar."""

    def __call__(self, done: int, total: int) -> None:
        """done, total: of the episodes."""


@contextmanager
def progress(words: str) -> Iterator[Report]:
    """A bar beside `words` that is gone afterwards; on a terminal alone."""
    from rich.progress import Progress

    from spatialvla.common.terminal import Terminal

    console = Terminal(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(words, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report
