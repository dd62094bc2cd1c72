"""/healthz and /metrics: on the protocol's own port where it can carry them, else on a port beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from spatialvla.errors import InputError
from spatialvla.serving.engine.service import Service

_TEXT = "text/plain; charset=utf-8"
_AT_A_TIME = 16


@dataclass(frozen=True)
class Page:
    """An answer to a GET request."""

    status: int
    body: bytes
    content_type: str = _TEXT


def page(service: Service, path: str, authorization: str | None) -> Page | None:
    """The answer to GET `path`, None where there is no such page.

    Everyone may ask for /healthz; /metrics needs a key where the server has any.
    """
    match path.partition("?")[0]:
        case "/healthz":
            return Page(200, b"OK\n") if service.engine.ready else Page(503, b"not ready\n")
        case "/metrics":
            if not service.access.admits(authorization):
                return Page(401, b"an API key is needed\n")
            return Page(200, service.engine.metrics.text(), CONTENT_TYPE_LATEST)
    return None


class _FewThreads(ThreadingHTTPServer):
    """Answers a few at a time; who comes while they are at it is turned away, so that no flood makes threads."""

    daemon_threads = True
    request_queue_size = 64
    _free = threading.BoundedSemaphore(_AT_A_TIME)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


@contextmanager
def pages(service: Service, port: int) -> Iterator[int]:
    """Serves the pages from a thread for as long as the block lasts; yields the port (0 takes a free one).

    Raises InputError where the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            found = page(service, self.path, self.headers.get("Authorization")) or Page(404, b"not found\n")
            self.send_response(found.status)
            self.send_header("Content-Type", found.content_type)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        def version_string(self) -> str:
            return "spatialvla"

        def log_message(self, *_: object) -> None:
            pass

    try:
        server = _FewThreads((service.host, port), Handler)
    except OSError as error:
        raise InputError(f"The pages cannot be served on {service.host}:{port} ({error}).") from None
    if service.access.tls:
        # The handshake is left to the thread of the connection: one that stalls keeps no other waiting.
        server.socket = service.access.tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
