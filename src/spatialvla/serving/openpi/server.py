"""The openpi protocol (websocket and msgpack), for the unmodified `openpi-client` and for our own.

On connect the server sends its metadata. Then each message of the client is an observation, each answer a map
with `actions`. After an error comes a text frame and the connection is closed; a client that numbers its
requests (`request_id`) is told by a map with `error` instead, and may go on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable
from typing import cast

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from spatialvla.errors import InputError
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.service import ProtocolOptions, Service
from spatialvla.serving.guard.websocket import Door, GuardedConnection, address_of
from spatialvla.serving.openpi.connection import ClientConnection
from spatialvla.serving.openpi.messages import metadata
from spatialvla.serving.status_pages import Page, page

# Whoever sends garbage instead of a handshake would fill the log with tracebacks.
_QUIET = logging.getLogger(f"{__name__}.websockets")
_QUIET.setLevel(logging.CRITICAL)

_PING_SECONDS = 20.0


class OpenPiServer:
    """Serves one policy to openpi clients. pad_to: steps that they want at least."""

    def __init__(self, service: Service, mapping: ClientMapping, *, pad_to: int = 0) -> None:
        """Raises InputError where these clients' messages cannot keep the limits, or they take other actions."""
        mapping.check(service.limits, service.units)
        self._service = service
        self._mapping = mapping
        self._pad_to = pad_to
        self._connections: set[ClientConnection] = set()
        self._stopping = asyncio.Event()
        self._metadata = metadata(service, mapping, pad_to)

    async def run(self, stop: asyncio.Event, started: asyncio.Future[int] | None = None) -> None:
        """Serves until `stop` is set, then answers what is under way and closes.

        started: is given the port once clients can connect.
        """
        service, traffic = self._service, self._service.traffic
        door = Door(traffic, service.refused)
        async with serve(
            self._connect,
            service.host,
            service.port,
            ssl=service.access.tls,
            compression=None,
            max_size=traffic.max_message,
            max_queue=1,
            process_request=self._before_upgrade,
            server_header=None,
            logger=_QUIET,
            ping_interval=_PING_SECONDS,
            ping_timeout=3 * _PING_SECONDS,
            close_timeout=traffic.send_timeout,
            create_connection=cast(type[ServerConnection], door.connection),
        ) as server:
            if started is not None:
                started.set_result(server.sockets[0].getsockname()[1])
            await stop.wait()
            await self._drain()

    async def _drain(self) -> None:
        """Says that it is not ready, ends what is under way, and only then lets the port be closed."""
        notice = asyncio.create_task(asyncio.sleep(self._service.traffic.stop_notice))
        self._stopping.set()
        self._service.engine.leave()
        idle = [connection for connection in self._connections if not connection.busy]
        closing = [asyncio.create_task(connection.close()) for connection in idle]
        for _ in range(int(self._service.traffic.drain_timeout / 0.05)):
            if not any(connection.busy for connection in self._connections):
                break
            await asyncio.sleep(0.05)
        if closing:
            await asyncio.wait(closing, timeout=1)
        for connection in self._connections:
            if connection.busy:
                connection.cancel()
        await notice

    def _before_upgrade(self, socket: ServerConnection, request: Request) -> Response | None:
        authorization = request.headers.get("Authorization")
        found = page(self._service, request.path, authorization)
        if found is None and "Origin" in request.headers:
            # Browsers name the page's: no web page talks to a robot through its visitor.
            self._service.refused("origin", address_of(socket.remote_address))
            found = Page(403, b"web pages may not connect\n")
        if found is None and not self._service.access.admits(authorization):
            self._service.refused("unauthorized", address_of(socket.remote_address))
            found = Page(401, b"an API key is needed\n")
        if found is None and len(self._connections) >= self._service.traffic.max_connections:
            self._service.refused("too_many", address_of(socket.remote_address))
            found = Page(503, b"too many connections\n")
        if found is None and self._stopping.is_set():
            found = Page(503, b"the server is shutting down\n")
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

    def _connect(self, socket: ServerConnection) -> Awaitable[None]:
        assert isinstance(socket, GuardedConnection)
        connection = ClientConnection(socket, self._service, self._mapping, pad_to=self._pad_to)
        self._connections.add(connection)
        return connection.serve(self._metadata, self._stopping, self._connections.discard)


def run(service: Service, options: ProtocolOptions) -> None:
    """Serves until SIGTERM or SIGINT, then drains: requests under way are answered, none is accepted."""

    async def serve_until_told() -> None:
        stop = asyncio.Event()
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        scheme = "wss" if service.access.tls else "ws"
        started.add_done_callback(
            lambda port: print(f"Ready on {scheme}://{service.host}:{port.result()}", flush=True)
        )
        await OpenPiServer(service, options.mapping, pad_to=options.pad_to).run(stop, started)

    try:
        asyncio.run(serve_until_told())
    except OSError as error:
        raise InputError(f"The server cannot listen on {service.host}:{service.port} ({error}).") from None
    service.engine.drain(service.traffic.drain_timeout)
