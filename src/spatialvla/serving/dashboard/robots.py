"""The last decision for each robot, in bounded memory: what the page shows live."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic

from spatialvla.actions.units import ActionUnits
from spatialvla.serving.dashboard.shown import ShownDecision, shown_cameras
from spatialvla.serving.engine.turns import Client
from spatialvla.serving.engine.watching import WatchedDecision

_MOST = 8
_LOOK_LASTS = 15.0
"""Seconds after a look at the page in which somebody is taken to watch."""

_RECENT = 32


@dataclass
class Robot:
    """One session, numbered in the order in which they came.

    clamped: steps that a limit changed. times: when its last decisions were made, in seconds.
    """

    number: int
    address: str
    last: ShownDecision
    clamped: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def rate(self) -> float | None:
        """Decisions a second of late; None after one."""
        span = self.times[-1] - self.times[0]
        return (len(self.times) - 1) / span if span > 0 else None


class Robots:
    """The robots that asked last. cameras, units: of the policy.

    Pictures are copied small, and drawn only when a browser asks for them.
    """

    def __init__(
        self, cameras: tuple[str, ...], units: ActionUnits, clock: Callable[[], float] = monotonic
    ) -> None:
        self._cameras, self._units, self._clock = cameras, units, clock
        self._lock = threading.Lock()
        self._robots: OrderedDict[Client, Robot] = OrderedDict()
        self._count = 0
        self._looked = -_LOOK_LASTS

    @property
    def watching(self) -> bool:
        """Whether a browser has asked of late."""
        return self._clock() - self._looked < _LOOK_LASTS

    def look(self) -> list[tuple[Robot, float]]:
        """The robots in the order in which they came, each with its age: seconds since its last decision.

        Somebody watches from now on.
        """
        now = self._looked = self._clock()
        with self._lock:
            robots = sorted(self._robots.values(), key=lambda robot: robot.number)
            return [(replace(robot, times=robot.times.copy()), now - robot.times[-1]) for robot in robots]

    def find(self, number: int) -> ShownDecision | None:
        """The last decision of a robot."""
        with self._lock:
            return next((robot.last for robot in self._robots.values() if robot.number == number), None)

    def decided(self, decided: WatchedDecision) -> None:
        """Keeps what a decision was made of, in place of the last one of its robot."""
        answer = decided.answer
        cameras = shown_cameras(
            answer.request.observation,
            self._cameras,
            decided.depth,
            decided.fingertips,
            answer.chunk.actions,
            decided.actions,
            self._units,
        )
        with self._lock:
            robot = self._robots.get(decided.client)
            last = ShownDecision(
                number=robot.last.number + 1 if robot else 1,
                instruction=answer.request.observation.instruction,
                cameras=cameras,
                chunk=answer.chunk,
                sent=decided.actions,
                clamped=decided.clamped,
                timings=answer.timings,
            )
            if robot is None:
                self._count += 1
                robot = self._robots[decided.client] = Robot(self._count, decided.client.address, last)
            robot.last = last
            robot.clamped += max(decided.clamped.values(), default=0)
            robot.times.append(self._clock())
            self._robots.move_to_end(decided.client)
            if len(self._robots) > _MOST:
                self._robots.popitem(last=False)

    def ended(self, client: Client) -> None:
        """Its last decision stays to be looked at."""
