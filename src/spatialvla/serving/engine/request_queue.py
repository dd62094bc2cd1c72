"""Requests that wait for the model: bounded in number, and clients take turns."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.failures import Busy, Draining

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Waiting(Generic[Item]):
    kind: Hashable
    item: Item


class Turns(Generic[Item]):
    """What each client waits for, in its order. Those who were served go to the end.

    Items have a kind, and only items of one kind are taken together. Not for several threads at a time.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[_Waiting[Item]]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def of(self, client: Hashable) -> int:
        """How many items one client waits for."""
        return len(self._queues.get(client, ()))

    def add(self, client: Hashable, kind: Hashable, item: Item) -> None:
        """Adds an item at the end of the client's own queue."""
        self._queues.setdefault(client, deque()).append(_Waiting(kind, item))
        self._length += 1

    def take(self, most: int) -> list[Item]:
        """Up to `most` items of the kind that the first client waits for, one of each client, then a second.

        Clients that wait for another kind keep their turn.
        """
        if not self._queues:
            return []
        kind = next(iter(self._queues.values()))[0].kind
        taken: list[Item] = []
        before = -1
        while before < len(taken) < most:
            before = len(taken)
            for client in list(self._queues):
                queue = self._queues[client]
                if len(taken) < most and queue[0].kind == kind:
                    taken.append(queue.popleft().item)
                    if queue:
                        self._queues.move_to_end(client)
                    else:
                        del self._queues[client]
        self._length -= len(taken)
        return taken

    def take_all(self) -> list[Item]:
        """Everything, in no order; the queue is empty then."""
        everything = [waiting.item for queue in self._queues.values() for waiting in queue]
        self._queues.clear()
        self._length = 0
        return everything


class RequestQueue(Generic[Item]):
    """The waiting room in front of the model: any thread adds, one worker takes batches.

    Requests that come while a batch runs make up the next one, so a lone client never waits for others.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._turns: Turns[Item] = Turns()
        self._changed = threading.Condition()
        self._closed = False
        self._answered: set[Hashable] = set()
        self._gather_until = 0.0

    def __len__(self) -> int:
        return len(self._turns)

    @property
    def closed(self) -> bool:
        """Whether nothing more is let in."""
        return self._closed

    def check_room(self, client: Hashable) -> None:
        """Raises Draining or Busy where a request of this client would not be let in."""
        if self._closed:
            raise Draining("The server is shutting down.")
        if len(self._turns) >= self.settings.max_queue:
            raise Busy(f"The server is busy: {len(self._turns)} requests are waiting. Try again later.")
        if self._turns.of(client) >= self.settings.max_per_client:
            raise Busy(
                f"This connection already has {self.settings.max_per_client} requests waiting; "
                "wait for their answers."
            )

    def add(self, client: Hashable, kind: Hashable, item: Item) -> None:
        """Lets a request in; only those of one kind share a batch. Raises as `check_room`."""
        with self._changed:
            self.check_room(client)
            self._turns.add(client, kind, item)
            self._changed.notify_all()

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

    def expect(self, clients: Iterable[Hashable], took: float) -> None:
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
