"""A websocket on which neither connecting nor sending, receiving or hanging up takes longer than it may."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

_LARGEST_ANSWER = 16 * 2**20
_LONGEST_FAREWELL = 1.0
"""Seconds for the other side to hang up, too."""


class Channel:
    """An open connection. Deadlines are of `time.monotonic`, in seconds.

    After half a message nothing can follow, so whatever interrupts a transfer ends the connection.
    """

    def __init__(
        self, url: str, deadline: float, *, headers: Mapping[str, str] | None, tls: ssl.SSLContext | None
    ) -> None:
        """Raises TimeoutError, and as `websockets.sync.client.connect`."""
        opened = connect(
            url,
            additional_headers=headers,
            ssl=tls,
            compression=None,
            max_size=_LARGEST_ANSWER,
            open_timeout=_left(deadline),
            close_timeout=_LONGEST_FAREWELL,
            proxy=None,
        )
        self._connection = ExitStack()
        self._websocket = self._connection.enter_context(opened)

    def send(self, message: bytes, deadline: float) -> None:
        """Raises TimeoutError where the other side does not read, and ConnectionClosed."""
        try:
            with self._ended_after(_left(deadline)):
                self._websocket.send(message)
        except ConnectionClosed:
            if time.monotonic() >= deadline:
                raise TimeoutError("nothing was read") from None
            raise
        except BaseException:
            self._end()
            raise

    def receive(self, deadline: float) -> bytes | str:
        """The next message. Raises TimeoutError, after which the connection goes on, and ConnectionClosed."""
        try:
            return self._websocket.recv(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise
        except BaseException:
            self._end()
            raise

    def close(self) -> None:
        """Hangs up as one should."""
        with self._ended_after(_LONGEST_FAREWELL):
            self._connection.close()

    def abandon(self) -> None:
        """Hangs up without a word, as the other side may no longer listen."""
        self._end()
        self.close()

    @contextmanager
    def _ended_after(self, seconds: float) -> Iterator[None]:
        """Ends the connection, and so whatever waits for it, unless the block is over after so many seconds.

        A timeout of the socket would not do: the websocket reads from it in a thread of its own meanwhile.
        """
        watchdog = threading.Timer(seconds, self._end)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        finally:
            watchdog.cancel()

    def _end(self) -> None:
        with suppress(OSError):  # it has ended already
            # Not the method of a TLS socket, which takes its keys away from under whoever is writing.
            socket.socket.shutdown(self._websocket.socket, socket.SHUT_RDWR)


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())
