"""Messages of all clients that arrive or are worked on: what they take together is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from spatialvla.serving.failures import Busy


class Inbox:
    """Counts the bytes of messages before they are kept, for all connections of a server.

    most_bytes, most_messages: of all that arrive or are worked on. Where there would be more, the message
    that has been arriving for the longest goes, of the address that holds the most. So whoever holds back the
    ends of messages loses them, not those whose messages come in one piece. For one thread.
    """

    def __init__(self, most_bytes: int, most_messages: int) -> None:
        self._most_bytes, self._most_messages = most_bytes, most_messages
        self._arriving: dict[Message, None] = {}
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes of all messages that arrive or are worked on."""
        return self._held

    def begin(self, address: str, evict: Callable[[], None]) -> Message:
        """A message whose first byte is here. evict: ends its connection, where it has to go.

        Raises Busy where there is no room for one more.
        """
        message = Message(self, address, evict)
        self._arriving[message] = None
        self._make_room(message, too_much=lambda: len(self._arriving) > self._most_messages)
        return message

    def _make_room(self, newcomer: Message, *, too_much: Callable[[], bool]) -> None:
        while too_much():
            held = Counter[str]()
            for message in self._arriving:
                held[message.address] += message.size + 1
            victim = next((m for m in self._arriving if m.address == held.most_common(1)[0][0]), newcomer)
            victim.close()
            if victim is newcomer:
                raise Busy("The server holds as many unfinished messages as it can; try again later.")
            victim.evict()


class Message:
    """One message, from its first byte to the end of the work on it."""

    def __init__(self, inbox: Inbox, address: str, evict: Callable[[], None]) -> None:
        self.address, self.evict = address, evict
        self.size = 0
        self._inbox = inbox
        self._open = True

    def add(self, size: int) -> None:
        """Counts bytes, of the message or of what it is decoded to; less than 0 for those that were let go.

        Raises Busy where there is no room for them; the message is closed then.
        """
        if self._open:
            size = max(size, -self.size)
            self.size += size
            self._inbox._held += size
            self._inbox._make_room(self, too_much=lambda: self._inbox._held > self._inbox._most_bytes)

    def complete(self) -> None:
        """All of it is here: from now on it does not have to go for another."""
        self._inbox._arriving.pop(self, None)

    def close(self) -> None:
        """Nothing is kept of it any more."""
        if self._open:
            self._open = False
            self._inbox._held -= self.size
            self._inbox._arriving.pop(self, None)
