"""A served policy with its page, and requests as a browser makes them."""

from __future__ import annotations

import http.client
import io
import secrets
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from fake_policy import DATASET, FakePolicy
from PIL import Image
from running import Running, fake_service, serving

from spatialvla.serving.dashboard.robots import Robots
from spatialvla.serving.dashboard.server import dashboard
from spatialvla.serving.engine.service import Service
from spatialvla.serving.guard.access import Access

KEY = "a-key-of-some-length"


class WatchedPolicy(FakePolicy):
    """Has what the page tells of a policy, and depth of one to two meters for whoever wants it."""

    dataset = DATASET

    @property
    def processor(self):
        return self._processor

    def decide(self, observations, executors):
        for executor in executors:
            executor.depth = {0: torch.linspace(1, 2, 256).reshape(16, 16)} if executor.keeps_depth else {}
        return super().decide(observations, executors)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Page:
    """The page of a server. headers: of every request. cookie: that it was given last."""

    port: int
    robots: Robots
    service: Service
    headers: Mapping[str, str]
    tls: ssl.SSLContext | None = None
    cookie: str = ""

    @property
    def origin(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """headers: with _ where - is meant."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {**self.headers, **({"Cookie": self.cookie} if self.cookie else {}), **given}
        if self.tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.tls)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body or None, sent)
            answer = connection.getresponse()
            found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()
        self.cookie = found.headers.get("Set-Cookie", self.cookie).partition(";")[0]
        return found

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, fields: Mapping[str, str | bytes], **headers: str) -> Answer:
        """A form, as the page sends it; bytes are files."""
        boundary = secrets.token_hex(8)
        parts = []
        for name, value in fields.items():
            file = '; filename="picture.png"\r\nContent-Type: image/png' if isinstance(value, bytes) else ""
            content = value if isinstance(value, bytes) else value.encode()
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
            parts.append(head.encode() + content + b"\r\n")
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return self.ask("POST", path, body, **{"Content_Type": kind, "Origin": self.origin, **headers})

    def log_in(self, key: str) -> Answer:
        return self.post("/login", {"key": key})


@contextmanager
def watched(
    policy: FakePolicy | None = None, access: Access | None = None, tls: ssl.SSLContext | None = None, **more
) -> Iterator[tuple[Running, Page]]:
    """Serves openpi's clients, and the page. access: of the page."""
    service = fake_service(policy or WatchedPolicy(), **more)
    robots = Robots(service.policy.camera_names, service.units)
    service = replace(service, watchers=[robots])
    access = access or Access()
    with (
        serving(service) as running,
        dashboard(service, robots, host="127.0.0.1", port=0, access=access) as port,
    ):
        yield running, Page(port, robots, service, {}, tls)


def png(seed: int = 0, size: tuple[int, int] = (24, 32), file_format: str = "PNG") -> bytes:
    """A picture file of noise."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()
