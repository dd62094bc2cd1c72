"""The page over HTTP, on a port of its own and in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

from spatialvla.common.extras import needs_extra
from spatialvla.errors import InputError
from spatialvla.serving.dashboard.pages import STATIC, Pages, static
from spatialvla.serving.dashboard.robots import Robots
from spatialvla.serving.dashboard.shown import ShownDecision
from spatialvla.serving.dashboard.trials import Trials
from spatialvla.serving.dashboard.visitors import Visitors
from spatialvla.serving.engine.service import Service
from spatialvla.serving.failures import ServingError
from spatialvla.serving.guard.access import Access

with needs_extra("dashboard", "The dashboard"):
    from aiohttp import web

log = logging.getLogger(__name__)

_CONNECTIONS = 32
_IDLE = 15.0
"""Seconds in which a connection has to ask for something."""

_ANSWERED = 60.0
"""Seconds after which a request is given up, that of a trial behind many robots included."""

_LONGEST_LOGIN = 4096
"""Bytes of a form with a key."""

_AFTER_WRONG_KEY = 0.5
_LEFT = 2.0
"""Seconds for the requests under way when the server stops."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # without any, browsers do not say that a form is the page's own
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Dashboard:
    """Answers the browsers that look at one service. access: of the page."""

    def __init__(self, service: Service, robots: Robots, access: Access) -> None:
        self._service, self._robots = service, robots
        self._visitors = Visitors(access)
        self._secure = access.tls is not None
        self._trials = Trials(service)
        self._pages = Pages(service, can_log_out=self._visitors.key_needed)

    def application(self) -> web.Application:
        """What answers requests, behind what lets them in."""
        app = web.Application(
            middlewares=[self._hurried, self._guarded], client_max_size=self._service.traffic.max_message
        )
        app.add_routes(
            [
                web.get("/", self._page),
                web.post("/login", self._log_in),
                web.post("/logout", self._log_out),
                web.get("/live", self._live),
                web.post("/try", self._try),
                web.get(
                    r"/{kind:robot|trial}/{number:\d{1,9}}/{camera:\d{1,3}}/{what:image|depth}.jpg",
                    self._picture,
                ),
                web.get("/static/{name}", self._static),
            ]
        )
        return app

    # ---------------------------------------------------------------- guard

    @web.middleware
    async def _hurried(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Ends what takes too long, and says nothing of what fails but a sentence."""
        try:
            async with asyncio.timeout(_ANSWERED):
                response = await handler(request)
        except web.HTTPException as refused:
            response = web.Response(status=refused.status, text=refused.text, headers=_kept(refused))
        except TimeoutError:
            response = web.Response(status=408, text="that took too long\n")
        except Exception:
            log.exception("The dashboard failed")
            response = web.Response(status=500, text="the server failed; its log has details\n")
        response.headers.update(_HEADERS)
        return response

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if reason := self._visitors.refusal(request.method, request.path, request.headers):
            self._service.refused("origin", str(request.remote))
            return web.Response(status=403, text=reason)
        if request.path == "/login" or request.path.startswith("/static/") or self._knows(request):
            return await handler(request)
        if request.path == "/":
            return _html(self._pages.login(), status=401)
        # A part of the page is asked for by a page whose login is over: it begins anew.
        return web.Response(status=401, text="an API key is needed\n", headers={"HX-Redirect": "/"})

    def _knows(self, request: web.Request) -> bool:
        return self._visitors.admits(
            request.headers.get("Authorization"), request.cookies.get(self._cookie(request))
        )

    def _cookie(self, request: web.Request) -> str:
        """Cookies are shared by all ports of a host, so the name tells ours."""
        port = request.get_extra_info("sockname", ("", 0))[1]
        return f"spatialvla-{port}"

    # ---------------------------------------------------------------- pages

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return _html(self._pages.page())

    async def _static(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in STATIC:
            raise web.HTTPNotFound
        return web.Response(body=static(name), content_type=STATIC[name], charset="utf-8")

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        if request.content_length is None or request.content_length > _LONGEST_LOGIN:
            # Whoever has no key yet is not let fill the memory.
            return web.Response(status=413, text="that is no login\n")
        form = await _form(request)
        token = self._visitors.log_in(_text(form, "key").strip())
        if token is None:
            self._service.refused("unauthorized", str(request.remote))
            await asyncio.sleep(_AFTER_WRONG_KEY)
            return _html(self._pages.login(wrong=True), status=401)
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(
            self._cookie(request), token, httponly=True, samesite="Strict", secure=self._secure, path="/"
        )
        return response

    async def _log_out(self, request: web.Request) -> web.StreamResponse:
        self._visitors.log_out(request.cookies.get(self._cookie(request), ""))
        return web.Response(status=303, headers={"Location": "/"})

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return _html(await asyncio.to_thread(self._pages.live, self._robots.look()))

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        """The newest picture there is: the one that was asked for may have been followed by another."""
        found = request.match_info
        shown = self._decision(found["kind"], int(found["number"]))
        if shown is None or int(found["camera"]) >= len(shown.cameras):
            raise web.HTTPNotFound
        camera = shown.cameras[int(found["camera"])]
        if found["what"] == "image":
            content = await asyncio.to_thread(lambda: camera.jpeg)
        else:
            drawn = await asyncio.to_thread(lambda: camera.depth_drawn)
            if drawn is None:
                raise web.HTTPNotFound
            content = drawn[0]
        return web.Response(body=content, content_type="image/jpeg")

    def _decision(self, kind: str, number: int) -> ShownDecision | None:
        return self._robots.find(number) if kind == "robot" else self._trials.find(number)

    async def _try(self, request: web.Request) -> web.StreamResponse:
        form = await _form(request)
        names = self._service.policy.camera_names
        files = {
            name: field.file.read()
            for number, name in enumerate(names)
            if isinstance(field := form.get(f"camera-{number}"), web.FileField) and field.filename
        }
        try:
            trial = await self._trials.ask(files, _text(form, "instruction"), _text(form, "dataset"))
        except (InputError, ServingError) as error:
            return _html(self._pages.no_answer(str(error)))
        return _html(self._pages.answer(trial))


@contextmanager
def watched(service: Service, *, host: str, port: int, access: Access) -> Iterator[Service]:
    """The service with its page beside it for as long as the block lasts, and whose address is printed.

    port: 0 takes a free one. Raises InputError where the port is taken.
    """
    robots = Robots(service.policy.camera_names, service.units)
    service = replace(service, watchers=[*service.watchers, robots])
    with dashboard(service, robots, host=host, port=port, access=access) as taken:
        scheme = "https" if access.tls else "http"
        print(f"Dashboard on {scheme}://{host}:{taken}", flush=True)
        yield service


@contextmanager
def dashboard(service: Service, robots: Robots, *, host: str, port: int, access: Access) -> Iterator[int]:
    """Serves the page for as long as the block lasts; yields its port. Raises as `watched`."""
    app = Dashboard(service, robots, access).application()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    started: Future[int] = Future()

    def serve() -> None:
        try:
            loop.run_until_complete(_serve(app, host, port, access.tls, started, stop))
        except OSError as error:
            started.set_exception(error)
        finally:
            loop.close()

    thread = threading.Thread(target=serve, name="dashboard", daemon=True)
    thread.start()
    try:
        taken = started.result()
    except OSError as error:
        raise InputError(f"The dashboard cannot be served on {host}:{port} ({error}).") from None
    try:
        yield taken
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _serve(
    app: web.Application,
    host: str,
    port: int,
    tls: ssl.SSLContext | None,
    started: Future[int],
    stop: asyncio.Event,
) -> None:
    """Serves until `stop` is set. started: is given the port."""
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=_IDLE, shutdown_timeout=_LEFT)
    await runner.setup()
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: _connection(runner), host, port, ssl=tls, ssl_handshake_timeout=_IDLE if tls else None
        )
        started.set_result(server.sockets[0].getsockname()[1])
        await stop.wait()
        server.close()
    finally:
        await runner.cleanup()


def _connection(runner: web.AppRunner) -> asyncio.BaseProtocol:
    """A connection's protocol; of a flood, one that hangs up."""
    assert runner.server is not None
    return _Full() if len(runner.server.connections) >= _CONNECTIONS else runner.server()


class _Full(asyncio.Protocol):
    """Hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


async def _form(request: web.Request) -> Mapping[str, object]:
    """What a form says; 400 for what is none, whatever the parser makes of it."""
    try:
        return await request.post()
    except web.HTTPException:
        raise
    except Exception:
        raise web.HTTPBadRequest(text="that is no form that can be read\n") from None


def _text(form: Mapping[str, object], name: str) -> str:
    """What was written there; nothing where a file was sent."""
    written = form.get(name)
    return written if isinstance(written, str) else ""


def _kept(refused: web.HTTPException) -> dict[str, str]:
    """Which methods there are, of what is told with a refusal."""
    return {name: value for name, value in refused.headers.items() if name == "Allow"}


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html", charset="utf-8")
