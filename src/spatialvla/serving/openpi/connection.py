"""One openpi client: a message in, an answer out, until one of the two sides goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from time import perf_counter

from websockets.exceptions import ConnectionClosed, WebSocketException

from spatialvla.errors import InputError
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.requests import Answer
from spatialvla.serving.engine.service import Service
from spatialvla.serving.failures import InternalError, ServingError, outcome
from spatialvla.serving.guard.traffic import Throttle
from spatialvla.serving.guard.websocket import GuardedConnection
from spatialvla.serving.openpi.messages import ClientMessage, MessageRefused, read, refusal, reply

log = logging.getLogger(__name__)
ERROR, GOING_AWAY = 1011, 1001
"""Codes that a websocket is closed with."""

_AFTER_REFUSAL = 0.05
"""Seconds in which a client that was refused is not listened to."""


class ClientConnection:
    """One client's episode, its pace, and the request under way."""

    def __init__(
        self, socket: GuardedConnection, service: Service, mapping: ClientMapping, *, pad_to: int
    ) -> None:
        self.busy = False
        self._socket = socket
        self._service = service
        self._mapping = mapping
        self._pad_to = pad_to
        self._session = service.session(address=socket.address)
        self._throttle = Throttle(service.traffic.rate, service.traffic.burst)
        self._task = asyncio.current_task()
        self._pending: Future[Answer] | None = None
        self._total_ms: float | None = None
        self._answers = 0

    async def serve(
        self, greeting: bytes, stopping: asyncio.Event, closed: Callable[[ClientConnection], None]
    ) -> None:
        """Greets the client, then answers what it sends until it goes or the server stops.

        closed: is told of this connection once it has ended.
        """
        traffic, metrics = self._service.traffic, self._service.engine.metrics
        began, client = perf_counter(), "{}:{}".format(*self._socket.remote_address[:2])
        self._service.clients.connected(client)
        metrics.connections.inc()
        gone = asyncio.create_task(self._socket.wait_closed())
        gone.add_done_callback(lambda _: self._pending and self._pending.cancel())
        try:
            await self._send(greeting)
            while not stopping.is_set():
                async with asyncio.timeout(traffic.idle_timeout):
                    message = await self._socket.recv()
                self.busy = True
                if not await self._answer(message):
                    return
                del message
                self._socket.answered()
                self.busy = False
            await self.close()
        except ConnectionClosed:
            pass
        except WebSocketException:  # such as of too many fragments
            self._socket.end("protocol")
        except TimeoutError:
            self._socket.end("timed_out")
        except asyncio.CancelledError:  # of the answer a client that has gone was waiting for
            if self._task and self._task.cancelling():
                raise
        except Exception:
            log.exception("A connection failed")
            await self._socket.close(ERROR)
        finally:
            closed(self)
            self._service.clients.gone(client, self._answers, perf_counter() - began)
            metrics.connections.dec()
            gone.cancel()

    async def close(self) -> None:
        """Tells a client that nothing more is answered."""
        await self._socket.close(GOING_AWAY, "the server is shutting down")

    def cancel(self) -> None:
        """Ends the connection in the middle of a request."""
        if self._task:
            self._task.cancel()

    async def _answer(self, data: str | bytes) -> bool:
        """Answers one message; False once the connection is closed."""
        if delay := self._throttle.delay():
            await asyncio.sleep(delay)
        began = perf_counter()
        try:
            packed = await self._reply(data, began)
        except MessageRefused as refused:
            return await self._refuse(refused)
        await self._send(packed)
        self._answers += 1
        self._total_ms = (perf_counter() - began) * 1000
        return True

    async def _reply(self, data: str | bytes, began: float) -> bytes:
        """Bytes to bytes. Raises MessageRefused."""
        submitted = self._service.engine.threads.submit(self._session.client, partial(self._submit, data))
        message, pending = await asyncio.wrap_future(submitted)
        self._pending = pending
        try:
            answer = await asyncio.wrap_future(pending)
            decision = self._session.finish(answer, position=message.position)
            return reply(
                decision,
                self._mapping,
                pad_to=self._pad_to,
                request_id=message.request_id,
                infer_ms=(perf_counter() - began) * 1000,
                prev_total_ms=self._total_ms,
            )
        except Exception as error:
            raise MessageRefused(error, message.request_id) from None
        finally:
            self._pending = None

    def _submit(self, data: str | bytes) -> tuple[ClientMessage, Future[Answer]]:
        """Bytes to a queued request; runs in a thread. Raises MessageRefused."""
        metrics = self._service.engine.metrics
        with metrics.timed("decode"):
            try:
                message = read(data, self._mapping, self._service.traffic.request_timeout)
            except MessageRefused as refused:
                metrics.request(outcome(refused.error))
                raise
        if message.reset:
            self._session.reset()
        try:
            return message, self._session.submit(
                message.observation, committed=message.committed, timeout=message.timeout
            )
        except Exception as error:
            raise MessageRefused(error, message.request_id) from None

    async def _refuse(self, refused: MessageRefused) -> bool:
        """Says why; False where that closes the connection."""
        error = refused.error
        if not isinstance(error, InputError | ServingError):
            log.error("A request failed", exc_info=error)
            error = InternalError("The server failed; its log has details.")
        self._service.clients.refused(self._socket.address, outcome(error), str(error))
        if refused.request_id is not None:
            await self._send(refusal(error, refused.request_id))
            await asyncio.sleep(_AFTER_REFUSAL)
            return True
        await self._send(str(error))
        await self._socket.close(ERROR, "the text message before this says why")
        return False

    async def _send(self, message: str | bytes) -> None:
        """Raises TimeoutError where the client does not read."""
        async with asyncio.timeout(self._service.traffic.send_timeout):
            await self._socket.send(message)
