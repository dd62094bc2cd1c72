"""One openpi client: observations in, actions out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from time import perf_counter

from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.requests import Answer
from spatialvla.serving.engine.service import Service
from spatialvla.serving.failures import Stale, outcome
from spatialvla.serving.guard.websocket import GuardedConnection
from spatialvla.serving.openpi.messages import ClientMessage, MessageRefused, read, refusal, reply
from spatialvla.serving.websocket.client import ERROR, WebsocketClient

log = logging.getLogger(__name__)


class OpenPiClient(WebsocketClient):
    """One client's episode."""

    def __init__(
        self,
        socket: GuardedConnection,
        service: Service,
        interface: ClientInterface,
        greeting: bytes,
        *,
        pad_to: int,
    ) -> None:
        super().__init__(socket, service)
        self.greeting = greeting
        self._interface = interface
        self._pad_to = pad_to
        self._session = service.session(address=self.party)
        self._told: set[str] = set()  # what the log has said that the client does not send
        self._total_ms: float | None = None
        self._arrived = 0.0

    async def serve(self, stopping: asyncio.Event, closed: Callable[[WebsocketClient], None]) -> None:
        """As every client; the episode is over with the connection."""
        try:
            await super().serve(stopping, closed)
        finally:
            self._session.end()

    async def answer(self, data: str | bytes) -> bool:
        """Answers one message; False once the connection is closed."""
        began, self._arrived = perf_counter(), self.socket.arrived
        try:
            packed = await self._reply(data, began)
        except MessageRefused as refused:
            return await self._refuse(refused)
        await self.send(packed)
        self.answers += 1
        self._total_ms = (perf_counter() - began) * 1000
        return True

    async def _reply(self, data: str | bytes, began: float) -> bytes:
        """Bytes to bytes. Raises MessageRefused."""
        submitted = self.service.engine.threads.submit(self._session.client, partial(self._submit, data))
        message, pending = await asyncio.wrap_future(submitted)
        self.pending = pending
        try:
            answer = await asyncio.wrap_future(pending)
            # Behind others that its client has sent, a message waits before it is looked at.
            self._require_fresh(perf_counter() - self._arrived, message.timeout)
            decision = self._session.finish(
                answer,
                position=message.position,
                fingertips=message.fingertips,
                under_way=message.under_way,
            )
            return reply(
                decision,
                self._interface,
                pad_to=self._pad_to,
                request_id=message.request_id,
                infer_ms=(perf_counter() - began) * 1000,
                prev_total_ms=self._total_ms,
            )
        except Exception as error:
            raise MessageRefused(error, message.request_id) from None
        finally:
            self.pending = None

    def _require_fresh(self, age: float, longest: float) -> None:
        """Raises Stale where an answer comes later than its client waits for it. Both in seconds."""
        if age > longest:
            self.service.engine.metrics.request("stale")
            raise Stale(
                f"The observation is {age:.1f} s old, more than the {longest:g} s that it may wait; nothing is sent "
                "for it."
            )

    def _submit(self, data: str | bytes) -> tuple[ClientMessage, Future[Answer]]:
        """Bytes to a queued request; runs in a thread. Raises MessageRefused."""
        metrics = self.service.engine.metrics
        with metrics.timed("decode"):
            try:
                message = read(data, self._interface, self.service.traffic.request_timeout)
            except MessageRefused as refused:
                metrics.request(outcome(refused.error))
                if refused.reset:
                    self._session.reset()
                raise
        self._tell_lacking(message)
        if message.reset:
            self._session.reset()
        try:
            return message, self._session.submit(
                message.observation, committed=message.committed, timeout=message.timeout
            )
        except Exception as error:
            raise MessageRefused(error, message.request_id) from None

    def _tell_lacking(self, message: ClientMessage) -> None:
        """Each part of the policy's input that does not come is said once a connection."""
        lacking = [name for name in self._interface.lacking(message.observation) if name not in self._told]
        if lacking:
            self._told.update(lacking)
            log.warning("%s sends nothing of %s; the policy does without.", self.party, ", ".join(lacking))

    async def _refuse(self, refused: MessageRefused) -> bool:
        """Says why; False where that closes the connection."""
        error = await self.refuse(refused.error)
        if refused.request_id is not None:
            await self.send(refusal(error, refused.request_id))
            return True
        await self.send(str(error))
        await self.socket.close(ERROR, "the text message before this says why")
        return False
