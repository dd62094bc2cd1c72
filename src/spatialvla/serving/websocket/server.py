"""A server at a websocket: who is let in, and how it stops, whatever its clients' protocol."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from spatialvla.errors import InputError
from spatialvla.serving.engine.service import Service
from spatialvla.serving.guard.websocket import Door, GuardedConnection, address_of
from spatialvla.serving.status_pages import Page, page
from spatialvla.serving.websocket.client import WebsocketClient

# Whoever sends garbage instead of a handshake would fill the log with tracebacks.
_QUIET = logging.getLogger(f"{__name__}.websockets")
_QUIET.setLevel(logging.CRITICAL)

Welcome: TypeAlias = Callable[[GuardedConnection], WebsocketClient]
"""Makes a protocol's client of a connection."""


class WebsocketServer:
    """Serves the clients of one protocol.

    pages: answers to GET requests beside /healthz and /metrics, None where there is no such page.
    ping_seconds: between two questions whether a client is still there; None asks none.
    """

    def __init__(
        self,
        service: Service,
        welcome: Welcome,
        *,
        pages: Callable[[str], Page | None] = lambda path: None,
        ping_seconds: float | None = 20.0,
    ) -> None:
        self._service = service
        self._welcome = welcome
        self._pages = pages
        self._ping_seconds = ping_seconds
        self._clients: set[WebsocketClient] = set()
        self._stopping = asyncio.Event()

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
            ping_interval=self._ping_seconds,
            ping_timeout=3 * self._ping_seconds if self._ping_seconds else None,
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
        idle = [client for client in self._clients if not client.busy]
        closing = [asyncio.create_task(client.close()) for client in idle]
        for _ in range(int(self._service.traffic.drain_timeout / 0.05)):
            if not any(client.busy for client in self._clients):
                break
            await asyncio.sleep(0.05)
        if closing:
            await asyncio.wait(closing, timeout=1)
        for client in self._clients:
            if client.busy:
                client.cancel()
        await notice

    def _before_upgrade(self, socket: ServerConnection, request: Request) -> Response | None:
        authorization = request.headers.get("Authorization")
        found = page(self._service, request.path, authorization)
        if found is None and (refusal := self._refusal(request, authorization)) is not None:
            reason, found = refusal
            self._service.refused(reason, address_of(socket.remote_address))
        if found is None:
            found = self._pages(request.path)
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

    def _refusal(self, request: Request, authorization: str | None) -> tuple[str, Page] | None:
        """Why a connection is not let in: a word for the metrics, and a page."""
        if "Origin" in request.headers:
            # Browsers name the page's: no web page talks to a robot through its visitor.
            return "origin", Page(403, b"web pages may not connect\n")
        if not self._service.access.admits(authorization):
            return "unauthorized", Page(401, b"an API key is needed\n")
        if len(self._clients) >= self._service.traffic.max_connections:
            return "too_many", Page(503, b"too many connections\n")
        if self._stopping.is_set():
            return "draining", Page(503, b"the server is shutting down\n")
        return None

    def _connect(self, socket: ServerConnection) -> Awaitable[None]:
        assert isinstance(socket, GuardedConnection)
        client = self._welcome(socket)
        self._clients.add(client)
        return client.serve(self._stopping, self._clients.discard)


def run_until_told(service: Service, server: Callable[[], WebsocketServer]) -> None:
    """Serves until SIGTERM or SIGINT, then drains: requests under way are answered, none is accepted.

    server: makes it, within the loop that it runs in.
    """

    async def serve_until_told() -> None:
        stop = asyncio.Event()
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        scheme = "wss" if service.access.tls else "ws"
        started.add_done_callback(
            lambda port: print(f"Ready on {scheme}://{service.host}:{port.result()}", flush=True)
        )
        await server().run(stop, started)

    try:
        asyncio.run(serve_until_told())
    except OSError as error:
        raise InputError(f"The server cannot listen on {service.host}:{service.port} ({error}).") from None
    service.engine.drain(service.traffic.drain_timeout)
