"""Who is next when many wait: addresses take turns, and within an address its clients do."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Client:
    """Who waits: one connection.

    address: of its machine, with its key where it has one; connections of one address share its turns.
    """

    connection: Hashable
    address: str = ""


@dataclass(frozen=True)
class _Waiting(Generic[Item]):
    kind: Hashable
    item: Item


class Turns(Generic[Item]):
    """What each client waits for, in its order. Those who were served go to the end.

    Items have a kind, and only items of one kind are taken together. Not for several threads at a time.
    """

    def __init__(self) -> None:
        self._addresses: OrderedDict[str, OrderedDict[Client, deque[_Waiting[Item]]]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def of(self, client: Client) -> int:
        """How many items one client waits for."""
        clients = self._addresses.get(client.address)
        return len(clients[client]) if clients and client in clients else 0

    def add(self, client: Client, kind: Hashable, item: Item) -> None:
        """Adds an item at the end of the client's own queue."""
        clients = self._addresses.setdefault(client.address, OrderedDict())
        clients.setdefault(client, deque()).append(_Waiting(kind, item))
        self._length += 1

    def take(self, most: int) -> list[Item]:
        """Up to `most` items of the kind that the first client waits for.

        One of each address, then a second, and within an address one of each client, then a second. Clients
        that wait for another kind keep their turn.
        """
        if not self._length:
            return []
        first = next(iter(self._addresses.values()))
        kind = next(iter(first.values()))[0].kind
        taken: list[Item] = []
        before = -1
        while before < len(taken) < most:
            before = len(taken)
            for address in list(self._addresses):
                clients = self._addresses[address]
                client = next((client for client, queue in clients.items() if queue[0].kind == kind), None)
                if len(taken) < most and client is not None:
                    taken.append(self._remove(client, first=True))
                    if client in clients:
                        clients.move_to_end(client)
                    if address in self._addresses:
                        self._addresses.move_to_end(address)
        return taken

    def make_room(self, newcomer: Client) -> Client | None:
        """Whose last item may go for one of the newcomer: a client of the address that has the most.

        None where the newcomer's own address, or within it the newcomer, would have as many.
        """
        waiting = {address: sum(map(len, clients.values())) for address, clients in self._addresses.items()}
        largest = max(waiting, key=lambda address: waiting[address])
        if waiting[largest] <= waiting.get(newcomer.address, 0) + 1:
            largest = newcomer.address
        clients = self._addresses.get(largest, OrderedDict())
        most = max(map(len, clients.values()), default=0)
        if largest == newcomer.address and most <= self.of(newcomer) + 1:
            return None
        return next(client for client in reversed(clients) if len(clients[client]) == most)

    def take_last(self, client: Client) -> Item:
        """Removes what a client has added last."""
        return self._remove(client, first=False)

    def take_all(self) -> list[Item]:
        """Everything, in no order; the queue is empty then."""
        everything = [
            waiting.item
            for clients in self._addresses.values()
            for queue in clients.values()
            for waiting in queue
        ]
        self._addresses.clear()
        self._length = 0
        return everything

    def _remove(self, client: Client, *, first: bool) -> Item:
        clients = self._addresses[client.address]
        queue = clients[client]
        found = queue.popleft() if first else queue.pop()
        self._length -= 1
        if not queue:
            del clients[client]
        if not clients:
            del self._addresses[client.address]
        return found.item
