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
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response

from spatialvla.errors import InputError
from spatialvla.serving.engine import Answer
from spatialvla.serving.failures import InternalError, ServingError, outcome
from spatialvla.serving.http import Page, page
from spatialvla.serving.mapping import Mapping
from spatialvla.serving.padding import UNPADDED, Padding
from spatialvla.serving.service import Service
from spatialvla.serving.session import Session
from spatialvla.serving.traffic import Throttle
from spatialvla_client.codec import CodecError, pack, unpack

log = logging.getLogger(__name__)
# Whoever sends garbage instead of a handshake would fill the log with tracebacks.
_QUIET = logging.getLogger(f"{__name__}.websockets")
_QUIET.setLevel(logging.CRITICAL)

ERROR, GOING_AWAY = 1011, 1001
_PING_SECONDS = 20.0
_LONGEST_ID = 64


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
    """A request that is queued. position: (3,) metres of the gripper, where the client tells it."""

    answer: Future[Answer]
    request_id: int | str | None
    position: np.ndarray | None


@dataclass
class _Refused(Exception):
    """A message that is not answered with actions; request_id is None where it could not be read."""

    error: Exception
    request_id: int | str | None = field(default=None)


class OpenPiServer:
    """Serves one policy to openpi clients."""

    def __init__(self, service: Service, mapping: Mapping, padding: Padding = UNPADDED) -> None:
        self._service = service
        self._mapping = mapping
        self._padding = padding
        self._connections: set[_Connection] = set()
        self._stopping = False
        self._metadata = pack(self.metadata())

    def metadata(self) -> dict[str, Any]:
        """What a client is told on connecting: keys, units and length of what it sends and gets."""
        mapping, limits = self._mapping, self._service.limits
        return {
            "server": "spatialvla",
            "policy": self._service.name,
            "mapping": mapping.name,
            "keys": {
                name: key
                for name in ("image", "prompt", "depth", "intrinsics", "state")
                if (key := getattr(mapping, name)) is not None
            },
            "options": ["reset", "committed", "request_id", "timeout"],
            "chunk": self._service.chunk,
            "horizon": self._padding.length(self._service.horizon),
            "action": {
                "order": ["x", "y", "z", "roll", "pitch", "yaw", "gripper"],
                "kind": "change of the gripper's pose in one step; the gripper absolute",
                "gripper_open": mapping.gripper_open,
                "gripper_closed": mapping.gripper_closed,
                "metres_per_unit": limits.metres_per_unit,
                "radians_per_unit": limits.radians_per_unit,
            },
        }

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
                reply = self._reply(connection, accepted, answer, began)
            except Exception as error:
                raise _Refused(error, accepted.request_id) from None
            finally:
                connection.pending = None
        except _Refused as refusal:
            return await self._refuse(connection, refusal)
        await self._send(connection, reply)
        connection.total_ms = (perf_counter() - began) * 1000
        return True

    def _accept(self, session: Session, message: str | bytes) -> _Accepted:
        """Bytes to a queued request; runs in a thread. Raises _Refused."""
        request_id = None
        metrics = self._service.engine.metrics
        try:
            with metrics.timed("decode"):
                if isinstance(message, str):
                    raise InputError("Observations are binary messages, this one is text.")
                content = unpack(message)
                request_id = _request_id(content)
                observation = self._mapping.observation(content)
                position = self._mapping.gripper_position(content)
                timeout = self._timeout(content)
                committed = content.get("committed")
                if committed is not None and not isinstance(committed, np.ndarray):
                    raise InputError("'committed' must be an array (P, 3) of token numbers.")
        except Exception as error:
            known = InputError(str(error)) if isinstance(error, CodecError) else error
            metrics.request(outcome(known))
            raise _Refused(known, request_id) from None
        if content.get("reset") is True:
            session.reset()
        try:
            answer = session.submit(observation, committed=committed, timeout=timeout)
        except Exception as error:
            raise _Refused(error, request_id) from None
        return _Accepted(answer, request_id, position)

    def _timeout(self, content: dict[str, Any]) -> float:
        most = self._service.traffic.request_timeout
        given = content.get("timeout", most)
        if not isinstance(given, int | float) or not given > 0:
            raise InputError("'timeout' must be a positive number of seconds.")
        return min(float(given), most)

    def _reply(self, connection: _Connection, accepted: _Accepted, answer: Answer, began: float) -> bytes:
        decision = connection.session.finish(answer, position=accepted.position)
        actions, tokens = self._padding(decision.actions, decision.tokens)
        timings = decision.timings
        server_timing: dict[str, float] = {
            "infer_ms": (perf_counter() - began) * 1000,
            "prepare_ms": timings.prepare_ms,
            "queue_ms": timings.queue_ms,
            "batch": timings.batch,
        }
        if connection.total_ms is not None:
            server_timing["prev_total_ms"] = connection.total_ms
        reply: dict[str, Any] = {
            "actions": self._mapping.actions(actions),
            "tokens": tokens,
            "policy_timing": {"infer_ms": timings.infer_ms},
            "server_timing": server_timing,
        }
        if accepted.request_id is not None:
            reply["request_id"] = accepted.request_id
        return pack(reply)

    async def _refuse(self, connection: _Connection, refusal: _Refused) -> bool:
        error = refusal.error
        if not isinstance(error, InputError | ServingError):
            log.error("A request failed", exc_info=error)
            error = InternalError("The server failed; its log has details.")
        if refusal.request_id is not None:
            reply = {"error": str(error), "outcome": outcome(error), "request_id": refusal.request_id}
            await self._send(connection, pack(reply))
            return True
        await self._send(connection, str(error))
        await connection.socket.close(ERROR, "the text message before this says why")
        return False

    async def _send(self, connection: _Connection, message: str | bytes) -> None:
        """Raises TimeoutError where the client does not read."""
        async with asyncio.timeout(self._service.traffic.send_timeout):
            await connection.socket.send(message)


def _request_id(content: dict[str, Any]) -> int | str | None:
    found = content.get("request_id")
    if found is None or type(found) is int or (isinstance(found, str) and len(found) <= _LONGEST_ID):
        return found
    raise InputError(f"'request_id' must be an integer or a string of up to {_LONGEST_ID} characters.")


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

    asyncio.run(serve_until_told())
    service.engine.drain(service.traffic.drain_timeout)
