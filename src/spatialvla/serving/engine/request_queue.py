"""Requests that wait for the model: bounded in number, and clients take turns."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable
from time import perf_counter
from typing import Generic, TypeVar

from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.engine.turns import Client, Turns
from spatialvla.serving.failures import Busy, Draining

Item = TypeVar("Item")


class RequestQueue(Generic[Item]):
    """The waiting room in front of the model: any thread adds, one worker takes batches.

    Requests that come while a batch runs make up the next one, so a lone client never waits for others.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._turns: Turns[Item] = Turns()
        self._changed = threading.Condition()
        self._closed = False
        self._answered: set[Client] = set()
        self._gather_until = 0.0

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def closed(self) -> bool:
        """Whether nothing more is let in."""
        return self._closed

    def check_room(self, client: Client) -> None:
        """Raises Draining or Busy where a request of this client would not be let in."""
        if self._closed:
            raise Draining("The server is shutting down.")
        with self._changed:
            if self._turns.of(client) >= self.settings.max_per_client:
                raise Busy(
                    f"This connection already has {self.settings.max_per_client} requests waiting; "
                    "wait for their answers."
                )
            if len(self._turns) >= self.settings.max_queue and self._turns.make_room(client) is None:
                raise Busy(f"The server is busy: {len(self._turns)} requests are waiting. Try again later.")

    def add(self, client: Client, kind: Hashable, item: Item) -> Item | None:
        """Lets a request in; only those of one kind share a batch. Raises as `check_room`.

        Where the queue is full, the request of an address or a client that has more of them waiting goes for
        it, and is returned.
        """
        with self._changed:
            self.check_room(client)
            pushed_out = None
            if len(self._turns) >= self.settings.max_queue:
                largest = self._turns.make_room(client)
                pushed_out = self._turns.take_last(largest) if largest else None
            self._turns.add(client, kind, item)
            self._changed.notify_all()
            return pushed_out

    def next_batch(self) -> list[Item] | None:
        """Waits for requests and takes those of the next batch; None once the queue is closed and empty."""
        with self._changed:
            while not self._turns:
                if self._closed:
                    return None
                self._changed.wait()
            # Clients that were answered together come back together, give or take their own few milliseconds.
            # Starting with the first of them would leave the others to a second batch, forever after.
            while (
                len(self._turns) < self.settings.max_batch
                and not self._closed
                and (left := self._gather_until - perf_counter()) > 0
                and not all(self._turns.of(client) for client in self._answered)
            ):
                self._changed.wait(left)
            return self._turns.take(self.settings.max_batch)

    def expect(self, clients: Iterable[Client], took: float) -> None:
        """Clients that a batch has just answered, in `took` seconds: the next one waits for them a little."""
        wait = min(self.settings.gather_ms / 1000, self.settings.gather_share * took)
        self._gather_until = perf_counter() + wait
        self._answered = set(clients)

    def close(self) -> None:
        """Lets nothing more in; what waits can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take_all(self) -> list[Item]:
        """Everything that waits, in no order."""
        with self._changed:
            return self._turns.take_all()
