"""The openpi protocol (websocket and msgpack), for the unmodified `openpi-client` and for our own.

On connect the server sends its metadata. Then each message of the client is an observation, each answer a map with
`actions`. After an error comes a text frame and the connection is closed; a client that numbers its requests
(`request_id`) is told by a map with `error` instead, and may go on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from spatialvla.errors import InputError
from spatialvla.serving.engine.batching import Answer
from spatialvla.serving.engine.client_mapping import Mapping
from spatialvla.serving.engine.padding import UNPADDED, Padding
from spatialvla.serving.engine.service import Service
from spatialvla.serving.engine.session import Session
from spatialvla.serving.failures import InternalError, ServingError, outcome
from spatialvla.serving.guard.traffic import Throttle
from spatialvla.serving.http import Page, page
from spatialvla.serving.openpi.messages import Asked, Refused, metadata, read, refusal, reply

log = logging.getLogger(__name__)
# Whoever sends garbage instead of a handshake would fill the log with tracebacks.
_QUIET = logging.getLogger(f"{__name__}.websockets")
_QUIET.setLevel(logging.CRITICAL)

ERROR, GOING_AWAY = 1011, 1001
_PING_SECONDS = 20.0


@dataclass(eq=False)
class _Connection:
    """One client: its episode, its pace, and the request under way."""

    socket: ServerConnection
    session: Session
    throttle: Throttle
    task: asyncio.Task[Any] | None
    busy: bool = False
    pending: Future[Answer] | None = None
    total_ms: float | None = None


@dataclass(frozen=True)
class _Accepted:
    """A request that is queued."""

    asked: Asked
    answer: Future[Answer]


class OpenPiServer:
    """Serves one policy to openpi clients."""

    def __init__(self, service: Service, mapping: Mapping, padding: Padding = UNPADDED) -> None:
        self._service = service
        self._mapping = mapping
        self._padding = padding
        self._connections: set[_Connection] = set()
        self._stopping = False
        self._metadata = metadata(service, mapping, padding)

    async def run(self, stop: asyncio.Event, started: asyncio.Future[int] | None = None) -> None:
        """Serves until `stop` is set, then answers what is under way and closes.

        started: is given the port once clients can connect.
        """
        service, traffic = self._service, self._service.traffic
        async with serve(
            self._serve,
            service.host,
            service.port,
            ssl=service.security.tls,
            compression=None,
            max_size=traffic.max_message,
            max_queue=1,
            origins=[None],  # browsers name theirs: no web page talks to a robot through its visitor
            process_request=self._before_upgrade,
            server_header=None,
            logger=_QUIET,
            ping_interval=_PING_SECONDS,
            ping_timeout=3 * _PING_SECONDS,
            close_timeout=traffic.send_timeout,
        ) as server:
            if started is not None:
                started.set_result(server.sockets[0].getsockname()[1])
            await stop.wait()
            await self._drain(server)

    async def _drain(self, server: Server) -> None:
        self._stopping = True
        self._service.engine.metrics.ready.set(0)
        server.close(close_connections=False)
        idle = [connection for connection in self._connections if not connection.busy]
        closing = [
            asyncio.create_task(c.socket.close(GOING_AWAY, "the server is shutting down")) for c in idle
        ]
        for _ in range(int(self._service.traffic.drain_timeout / 0.05)):
            if not any(connection.busy for connection in self._connections):
                break
            await asyncio.sleep(0.05)
        if closing:
            await asyncio.wait(closing, timeout=1)
        for connection in self._connections:
            if connection.busy and connection.task:
                connection.task.cancel()

    def _before_upgrade(self, socket: ServerConnection, request: HttpRequest) -> Response | None:
        authorization = request.headers.get("Authorization")
        found = page(self._service, request.path, authorization, ready=not self._stopping)
        if found is None and not self._service.security.admits(authorization):
            self._service.engine.metrics.refused("unauthorized")
            found = Page(401, b"an API key is needed\n")
        if found is None and len(self._connections) >= self._service.traffic.max_connections:
            self._service.engine.metrics.refused("too_many")
            found = Page(503, b"too many connections\n")
        if found is None:
            return None
        headers = Headers(
            {
                "Content-Type": found.content_type,
                "Content-Length": str(len(found.body)),
                "Connection": "close",
            }
        )
        return Response(found.status, "", headers, found.body)

    # ----------------------------------------------------------- one client

    async def _serve(self, socket: ServerConnection) -> None:
        traffic, metrics = self._service.traffic, self._service.engine.metrics
        throttle = Throttle(traffic.rate, traffic.burst)
        connection = _Connection(socket, self._service.session(), throttle, asyncio.current_task())
        self._connections.add(connection)
        metrics.connections.inc()
        gone = asyncio.create_task(socket.wait_closed())
        gone.add_done_callback(lambda _: connection.pending and connection.pending.cancel())
        try:
            await self._send(connection, self._metadata)
            while not self._stopping:
                async with asyncio.timeout(traffic.idle_timeout):
                    message = await socket.recv()
                connection.busy = True
                if not await self._answer(connection, message):
                    return
                connection.busy = False
            await socket.close(GOING_AWAY, "the server is shutting down")
        except ConnectionClosed:
            pass
        except TimeoutError:
            metrics.refused("timed_out")
            socket.transport.abort()
        except asyncio.CancelledError:  # of the answer a client that has gone was waiting for
            if connection.task and connection.task.cancelling():
                raise
        except Exception:
            log.exception("A connection failed")
            await socket.close(ERROR)
        finally:
            self._connections.discard(connection)
            metrics.connections.dec()
            gone.cancel()

    async def _answer(self, connection: _Connection, message: str | bytes) -> bool:
        """Answers one message; False once the connection is closed."""
        if delay := connection.throttle.delay():
            await asyncio.sleep(delay)
        began = perf_counter()
        loop = asyncio.get_running_loop()
        try:
            accepted = await loop.run_in_executor(
                self._service.engine.threads, self._accept, connection.session, message
            )
            connection.pending = accepted.answer
            try:
                answer = await asyncio.wrap_future(accepted.answer)
                decision = connection.session.finish(answer, position=accepted.asked.position)
                packed = reply(
                    decision,
                    self._mapping,
                    self._padding,
                    request_id=accepted.asked.request_id,
                    infer_ms=(perf_counter() - began) * 1000,
                    prev_total_ms=connection.total_ms,
                )
            except Exception as error:
                raise Refused(error, accepted.asked.request_id) from None
            finally:
                connection.pending = None
        except Refused as refused:
            return await self._refuse(connection, refused)
        await self._send(connection, packed)
        connection.total_ms = (perf_counter() - began) * 1000
        return True

    def _accept(self, session: Session, message: str | bytes) -> _Accepted:
        """Bytes to a queued request; runs in a thread. Raises Refused."""
        metrics = self._service.engine.metrics
        with metrics.timed("decode"):
            try:
                asked = read(message, self._mapping, self._service.traffic.request_timeout)
            except Refused as refused:
                metrics.request(outcome(refused.error))
                raise
        if asked.reset:
            session.reset()
        try:
            answer = session.submit(asked.observation, committed=asked.committed, timeout=asked.timeout)
        except Exception as error:
            raise Refused(error, asked.request_id) from None
        return _Accepted(asked, answer)

    async def _refuse(self, connection: _Connection, refused: Refused) -> bool:
        error = refused.error
        if not isinstance(error, InputError | ServingError):
            log.error("A request failed", exc_info=error)
            error = InternalError("The server failed; its log has details.")
        if refused.request_id is not None:
            await self._send(connection, refusal(error, refused.request_id))
            return True
        await self._send(connection, str(error))
        await connection.socket.close(ERROR, "the text message before this says why")
        return False

    async def _send(self, connection: _Connection, message: str | bytes) -> None:
        """Raises TimeoutError where the client does not read."""
        async with asyncio.timeout(self._service.traffic.send_timeout):
            await connection.socket.send(message)


def run(service: Service, mapping: Mapping, padding: Padding = UNPADDED) -> None:
    """Serves until SIGTERM or SIGINT, then drains: requests under way are answered, none is accepted."""

    async def serve_until_told() -> None:
        stop = asyncio.Event()
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        scheme = "wss" if service.security.tls else "ws"
        started.add_done_callback(
            lambda port: print(f"Ready on {scheme}://{service.host}:{port.result()}", flush=True)
        )
        await OpenPiServer(service, mapping, padding).run(stop, started)

    try:
        asyncio.run(serve_until_told())
    except OSError as error:
        raise InputError(f"The server cannot listen on {service.host}:{service.port} ({error}).") from None
    service.engine.drain(service.traffic.drain_timeout)
