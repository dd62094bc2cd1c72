"""A websocket whose client cannot make the server keep bytes without end, in either direction."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame
from websockets.http11 import Request
from websockets.protocol import Event

from spatialvla.serving.failures import Busy
from spatialvla.serving.guard.inbox import Inbox, Message
from spatialvla.serving.guard.traffic import Throttle, TrafficLimits

_FRAGMENT = 256
"""Bytes that a fragment takes beside its content, until its message is whole."""

_PINGS, _BURST_OF_PINGS = 50.0, 1000
"""Pings, pongs and the like of a client in a second, and at once. Ours are one in twenty seconds."""

_MOST_UNREAD = 2**20
"""Bytes that wait for a client to read them: a hundred times what we ever send without waiting for it."""


class Door:
    """What all connections of a server share: their messages, and how many come from each address.

    refused: is told, in a word, why a connection is ended.
    """

    def __init__(self, traffic: TrafficLimits, refused: Callable[[str, str], None]) -> None:
        self.inbox = Inbox(traffic.memory, 4 * traffic.max_connections)
        self.traffic = traffic
        self.refused = refused
        self.connections: Counter[str] = Counter()

    def connection(self, *arguments: Any, **options: Any) -> GuardedConnection:
        """A connection behind this door; `websockets.serve` takes it as its `create_connection`."""
        return GuardedConnection(*arguments, door=self, **options)

    def enter(self, address: str) -> bool:
        """Counts a connection of an address; False where it has as many as it may.

        Loopback is the address of all who come through a tunnel or a proxy, so it has no bound of its own.
        """
        self.connections[address] += 1
        bound = self.traffic.max_per_address
        return ipaddress.ip_address(address).is_loopback or self.connections[address] <= bound

    def leave(self, address: str) -> None:
        """Counts a connection of an address that has ended."""
        self.connections[address] -= 1
        if not self.connections[address]:
            del self.connections[address]


class GuardedConnection(ServerConnection):
    """A connection whose bytes are counted as they come, and as they wait to be read by the client.

    Messages that were received are counted until `answered`.
    """

    def __init__(self, *arguments: Any, door: Door, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.address = ""
        self._door = door
        self._arriving: Message | None = None
        self._payload = 0  # bytes of the arriving message's fragments
        self._whole: deque[tuple[Message, float]] = deque()  # each with when it was
        self._deadline: asyncio.TimerHandle | None = None
        self._pings = Throttle(_PINGS, _BURST_OF_PINGS)

    @property
    def arrived(self) -> float:
        """When the first message that is not answered yet was whole, in seconds of `perf_counter`."""
        return self._whole[0][1] if self._whole else perf_counter()

    def answered(self) -> None:
        """Nothing is kept any more of the first message that was received.

        Only now does the server read on: a message that has begun has its whole time from here.
        """
        message, _ = self._whole.popleft()
        message.close()
        self._stop_watching()
        self._watch()

    def end(self, reason: str) -> None:
        """Ends the connection at once, without a word to the client."""
        if not self.transport.is_closing():
            self._door.refused(reason, self.address)
            self.transport.abort()

    # ------------------------------------------------- of asyncio's and websockets' protocols

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Lets a connection in, unless its address has as many as it may."""
        super().connection_made(transport)
        self.address = address_of(transport.get_extra_info("peername"))
        if not self._door.enter(self.address):
            self.end("too_many_of_one_address")

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of all that was kept."""
        super().connection_lost(exc)
        self._door.leave(self.address)
        whole = [message for message, _ in self._whole]
        for message in (*whole, *([self._arriving] if self._arriving else [])):
            message.close()
        self._whole.clear()
        self._arriving = None
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Counts bytes before they are kept."""
        if self.transport.is_closing():
            return
        try:
            self._count(len(data))
            super().data_received(data)
        except Busy:
            return self.end("memory")
        if self.transport.get_write_buffer_size() > _MOST_UNREAD:
            self.end("reads_nothing")
        self._watch()

    def process_event(self, event: Event) -> None:
        """Follows the bytes into messages: what was read and answered by itself is kept no more."""
        if isinstance(event, Request):
            self._count(-self._arriving.size if self._arriving else 0)
        elif isinstance(event, Frame):
            size = len(event.data)
            header = 6 + (0 if size < 126 else 2 if size < 2**16 else 8)
            if event.opcode in DATA_OPCODES:
                self._count(_FRAGMENT - header)
                self._payload += _FRAGMENT + size
                if event.fin:
                    self._complete()
            else:
                self._count(-header - size)
                if self._pings.delay():
                    self.end("pings")
        super().process_event(event)

    # -------------------------------------------------------------------------------- inside

    def _count(self, size: int) -> None:
        if self._arriving is None:
            self._arriving = self._door.inbox.begin(self.address, lambda: self.end("memory"))
        self._arriving.add(size)
        if not self._arriving.size:
            self._arriving.close()
            self._arriving = None

    def _complete(self) -> None:
        """The arriving message is whole; bytes behind it are the next one's."""
        message, size, self._payload = self._arriving, self._payload, 0
        self._arriving = None
        if message is None:  # of no bytes
            message = self._door.inbox.begin(self.address, lambda: None)
        rest = max(0, message.size - size)
        message.add(-rest)
        message.complete()
        self._whole.append((message, perf_counter()))
        if rest:
            self._count(rest)

    def _watch(self) -> None:
        """A message that has begun has to become whole in time."""
        if self._arriving is None or self.transport.is_closing():
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(
                self._door.traffic.message_timeout, self._late, self._arriving
            )

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, message: Message) -> None:
        self._deadline = None
        # While a whole message waits, it is the server that does not read on.
        if message is self._arriving and not self._whole:
            self.end("unfinished_message")
        else:
            self._watch()


def address_of(peer: object) -> str:
    """The address that a client is counted under: of IPv6 its network, which is one client's."""
    host = str(peer[0]) if isinstance(peer, tuple) else "127.0.0.1"
    found = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and not found.is_loopback:
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False).network_address)
    return str(found)
