"""How the engine batches: sizes of its queue and its batches, and how long it waits for one more request."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from spatialvla.errors import InputError


@dataclass(frozen=True)
class EngineSettings:
    """The engine's sizes and waits."""

    max_batch: int = 16
    """Requests in one inference."""

    max_queue: int = 512
    """Requests waiting at a time; beyond it who has most is told that the server is busy."""

    max_per_client: int = 2
    """Requests of one client that may wait at a time."""

    gather_ms: float = 8.0
    """Milliseconds, after a batch, that the clients it answered are waited for before the next one begins."""

    gather_share: float = 0.15
    """The share of a batch's own time that this wait never exceeds."""

    threads: int = 2
    """Threads that check requests and resize their pictures."""

    def __post_init__(self) -> None:
        """Raises InputError for sizes below 1, and for waits that are no numbers of 0 or more."""
        sizes = {
            "max_batch": self.max_batch,
            "max_queue": self.max_queue,
            "max_per_client": self.max_per_client,
            "threads": self.threads,
        }
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"{name} must be at least 1, got {size}.")
        for name, wait in {"gather_ms": self.gather_ms, "gather_share": self.gather_share}.items():
            if not 0 <= wait < inf:
                raise InputError(f"{name} must be 0 or more and finite, got {wait}.")
