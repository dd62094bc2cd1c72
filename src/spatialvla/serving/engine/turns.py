"""A queue whose clients take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Waiting(Generic[Item]):
    kind: Hashable
    item: Item


class Turns(Generic[Item]):
    """What each client waits for, in its order. Those who were served go to the end. Not for several threads at once.

    Things have a kind, and only things of one kind are taken together.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[_Waiting[Item]]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def of(self, client: Hashable) -> int:
        """How many things one client waits for."""
        return len(self._queues.get(client, ()))

    def add(self, client: Hashable, kind: Hashable, item: Item) -> None:
        """At the end of the client's own queue."""
        self._queues.setdefault(client, deque()).append(_Waiting(kind, item))
        self._length += 1

    def take(self, most: int) -> list[Item]:
        """Up to `most` things of the kind that the first client waits for: one of each client, then a second, ….

        Clients that wait for another kind keep their place.
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
