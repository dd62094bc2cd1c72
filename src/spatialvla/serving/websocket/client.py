"""One client at a websocket: a message in, an answer out, until one of the two sides goes."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter

from websockets.exceptions import ConnectionClosed, WebSocketException

from spatialvla.errors import InputError
from spatialvla.serving.engine.requests import Answer
from spatialvla.serving.engine.service import Service
from spatialvla.serving.failures import InternalError, ServingError, outcome
from spatialvla.serving.guard.traffic import Throttle
from spatialvla.serving.guard.websocket import GuardedConnection

log = logging.getLogger(__name__)
ERROR, GOING_AWAY, TOO_LARGE = 1011, 1001, 1009
"""Codes that a websocket is closed with."""

_AFTER_REFUSAL = 0.05
"""Seconds in which a client that was refused is not listened to."""


class WebsocketClient(ABC):
    """A client's pace, its coming and going, and the request under way; a protocol says how it is answered."""

    greeting: bytes | None = None
    """What the client is sent when it has come."""

    def __init__(self, socket: GuardedConnection, service: Service) -> None:
        self.busy = False
        self.pending: Future[Answer] | None = None
        self.answers = 0
        self.socket = socket
        self.service = service
        self._throttle = Throttle(service.traffic.rate, service.traffic.burst)
        self._task = asyncio.current_task()

    @property
    def name(self) -> str:
        """Of the connection, in the log."""
        return "{}:{}".format(*self.socket.remote_address[:2])

    @property
    def party(self) -> str:
        """Who takes turns with others: an address, and where there are keys, each key at it."""
        headers = self.socket.request.headers if self.socket.request else {}
        number = self.service.access.key_number(headers.get("Authorization"))
        return self.socket.address if number is None else f"{self.socket.address} key {number}"

    @abstractmethod
    async def answer(self, data: str | bytes) -> bool:
        """Answers one message; False once the connection is to end."""

    async def serve(self, stopping: asyncio.Event, closed: Callable[[WebsocketClient], None]) -> None:
        """Greets the client, then answers what it sends until it goes or the server stops.

        closed: is told of this client once its connection has ended.
        """
        metrics = self.service.engine.metrics
        began, name = perf_counter(), self.name
        self.service.clients.connected(name)
        metrics.connections.inc()
        gone = asyncio.create_task(self.socket.wait_closed())
        gone.add_done_callback(lambda _: self.pending and self.pending.cancel())
        try:
            await self._converse(stopping)
        except ConnectionClosed as error:
            if error.sent is not None and error.sent.code == TOO_LARGE and not error.rcvd_then_sent:
                self._tell_too_large()
        except WebSocketException:  # such as of too many fragments
            self.socket.end("protocol")
        except TimeoutError:
            self.socket.end("timed_out")
        except asyncio.CancelledError:  # of the answer a client that has gone was waiting for
            if self._task and self._task.cancelling():
                raise
        except Exception:
            log.exception("A connection failed")
            await self.socket.close(ERROR)
        finally:
            closed(self)
            self.service.clients.gone(name, self.answers, perf_counter() - began)
            metrics.connections.dec()
            gone.cancel()

    async def close(self) -> None:
        """Tells the client that nothing more is answered."""
        await self.socket.close(GOING_AWAY, "the server is shutting down")

    def cancel(self) -> None:
        """Ends the connection in the middle of a request."""
        if self._task:
            self._task.cancel()

    async def send(self, message: str | bytes) -> None:
        """Raises TimeoutError where the client does not read."""
        async with asyncio.timeout(self.service.traffic.send_timeout):
            await self.socket.send(message)

    async def refuse(self, error: Exception) -> InputError | ServingError:
        """Tells the log why a message is not answered with actions, and gives what its client may know of it."""
        if not isinstance(error, InputError | ServingError):
            log.error("A request failed", exc_info=error)
            error = InternalError("The server failed; its log has details.")
        self.service.clients.refused(self.name, outcome(error), str(error))
        await asyncio.sleep(_AFTER_REFUSAL)
        return error

    def _tell_too_large(self) -> None:
        allowed = self.service.traffic.max_message_mb
        self.service.refused(
            "too_large",
            self.name,
            f"its message is larger than {allowed:g} MB; it may send smaller pictures, or --traffic.max-message-mb "
            "may allow more.",
        )

    async def _converse(self, stopping: asyncio.Event) -> None:
        if self.greeting is not None:
            await self.send(self.greeting)
        while not stopping.is_set():
            async with asyncio.timeout(self.service.traffic.idle_timeout):
                message = await self.socket.recv()
            self.busy = True
            if delay := self._throttle.delay():
                await asyncio.sleep(delay)
            if not await self.answer(message):
                return
            del message
            self.socket.answered()
            self.busy = False
        await self.close()
