"""A server in a thread of the test's process, and messages that are sent to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fake_policy import CHUNK, SIZE, FakePolicy

from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.serving.engine.batching import Engine
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.service import ProtocolOptions, Service
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.engine.watching import Watcher
from spatialvla.serving.guard.access import Access
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.guard.sureness import GO_ON, StopAbove
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.openpi.server import OpenPiServer
from spatialvla.serving.websocket.server import WebsocketServer

K = np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1.0]])
"""Of the camera that takes `picture`."""


@dataclass(frozen=True)
class Running:
    url: str
    port: int
    service: Service
    stop: Callable[[], object]

    def value(self, name: str, **labels: str) -> float:
        return self.service.engine.metrics.value(name, **labels)


def fake_service(
    policy: FakePolicy,
    *,
    port: int = 0,
    limits: Limits | None = None,
    access: Access | None = None,
    traffic: TrafficLimits | None = None,
    settings: EngineSettings | None = None,
    units: ActionUnits = UNKNOWN,
    calibration: RobotCalibration | None = None,
    require_all: bool = False,
    watchers: Sequence[Watcher] = (),
    stop_above: StopAbove = GO_ON,
) -> Service:
    traffic = replace(traffic or TrafficLimits(), stop_notice=0.01)
    engine = Engine(policy, check=traffic.check, settings=settings)
    engine.start()
    return Service(
        policy=policy,  # type: ignore[arg-type]
        engine=engine,
        chunk=CHUNK,
        name="fake",
        port=port,
        limits=limits or Limits(),
        units=units,
        access=access or Access(),
        traffic=traffic,
        calibration=calibration,
        require_all=require_all,
        watchers=watchers,
        stop_above=stop_above,
    )


@contextmanager
def serving(service: Service, mapping: str = "plain", *, pad_to: int = 0) -> Iterator[Running]:
    """Serves openpi's clients for as long as the block lasts, then stops as SIGTERM would."""
    with running(service, OpenPiServer(service, ClientMapping.load(mapping), pad_to=pad_to)) as found:
        yield found


@contextmanager
def running(service: Service, server: WebsocketServer) -> Iterator[Running]:
    """The same with a server of any protocol over websockets."""
    loop = asyncio.new_event_loop()
    stop, started = asyncio.Event(), loop.create_future()
    ready = threading.Event()
    started.add_done_callback(lambda _: ready.set())
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.run(stop, started)))
    thread.start()
    try:
        assert ready.wait(10)
        scheme = "wss" if service.access.tls else "ws"
        port = started.result()
        yield Running(
            f"{scheme}://127.0.0.1:{port}", port, service, lambda: loop.call_soon_threadsafe(stop.set)
        )
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        service.engine.drain(5)
        loop.close()
        assert not thread.is_alive()


def options(mapping: str = "plain", benchmark: str = "libero") -> ProtocolOptions:
    return ProtocolOptions(ClientMapping.load(mapping), benchmark)


def picture(seed: int) -> np.ndarray:
    """(SIZE, SIZE, 3) that differs from that of any other small seed."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[0, 0] = [seed % 251, seed // 251 % 251, seed % 7]
    image[-1, -1] = [seed % 241, 3, seed % 239]
    return image


def plain(seed: int, **more: Any) -> dict[str, Any]:
    """An observation with the keys of the mapping `plain`."""
    return {"image": picture(seed), "instruction": f"task {seed}", **more}
