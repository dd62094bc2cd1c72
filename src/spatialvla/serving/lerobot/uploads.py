"""What clients send, received part by part: in bounded memory and time, shared by all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, TypeAlias

from spatialvla.errors import InputError
from spatialvla.serving.failures import Busy
from spatialvla.serving.guard.inbox import Inbox, Message
from spatialvla.serving.guard.traffic import TrafficLimits

BEGIN, MIDDLE, END = 1, 2, 3
"""The state of a part: where in its observation it stands."""

_MOST_BYTES_A_PART = 4 * 2**20


class Part(Protocol):
    """A message of gRPC's as it comes; those without fields have neither."""

    transfer_state: int
    data: bytes


Join: TypeAlias = "Callable[[AsyncIterator[Part], int], Awaitable[bytes]]"
"""Makes one piece of the parts, of at most so many bytes."""


@dataclass(frozen=True)
class Upload:
    """The bytes of one request.

    message: under which they are counted, until it is closed. began: when the call began that brought them.
    """

    data: bytes
    message: Message
    began: float

    def close(self) -> None:
        """The bytes are kept no more."""
        self.message.close()


class Uploads:
    """Receives requests. Those that begin and do not end give way to others, the oldest first."""

    def __init__(self, traffic: TrafficLimits) -> None:
        self.most_bytes_a_part = min(_MOST_BYTES_A_PART, traffic.max_message)
        self._traffic = traffic
        self._inbox = Inbox(traffic.memory, 4 * traffic.max_connections)

    async def receive(self, requests: Any, join: Join, address: str) -> Upload:
        """The parts of one request, joined. Raises InputError, Busy, and what `join` raises."""
        traffic = self._traffic
        began = monotonic()
        evicted = False

        def evict() -> None:
            nonlocal evicted
            evicted = True
            joining.cancel()

        message = self._inbox.begin(address, evict)
        # gRPC keeps the next part until it is whole, which may be as large as any.
        joining = asyncio.ensure_future(join(self._counted(requests, message), traffic.max_message))
        try:
            message.add(self.most_bytes_a_part)
            data = await asyncio.wait_for(joining, traffic.message_timeout)
            message.add(-self.most_bytes_a_part)
            return Upload(data, message, began)
        except TimeoutError:
            message.close()
            raise InputError(
                f"The observation did not arrive whole within {traffic.message_timeout:g} s."
            ) from None
        except BaseException:
            joining.cancel()
            message.close()
            if evicted:
                raise Busy(
                    "The server holds as many unfinished messages as it can; try again later."
                ) from None
            raise

    @staticmethod
    async def _counted(requests: Any, message: Message) -> AsyncIterator[Part]:
        async for part in requests:
            message.add(part.ByteSize())
            yield part


async def join_parts(parts: AsyncIterator[Part], most_bytes: int) -> bytes:
    """The parts of one observation, each with where it stands, in one piece.

    Raises InputError for parts that make no whole, and where they are longer than `most_bytes`.
    """
    joined = bytearray()
    async for part in parts:
        state = part.transfer_state
        if state not in (BEGIN, MIDDLE, END):
            raise InputError(f"A part of an observation has the state {state}; there are only 1, 2 and 3.")
        if state == BEGIN:
            joined.clear()
        joined += part.data
        if len(joined) > most_bytes:
            raise InputError(f"The observation has more than {most_bytes} bytes; send smaller images.")
        if state == END:
            return bytes(joined)
    raise InputError("The observation ended before its last part.")


async def only_part(parts: AsyncIterator[Part], most_bytes: int) -> bytes:
    """The bytes of a request that comes in one part, none of one without fields."""
    async for part in parts:
        return getattr(part, "data", b"")
    raise InputError("The request is empty.")


def address_of_peer(peer: str) -> str:
    """The machine's address in what gRPC calls a client: "ipv4:127.0.0.1:53412", "ipv6:%5B::1%5D:53412"."""
    return peer.partition(":")[2].rpartition(":")[0]
