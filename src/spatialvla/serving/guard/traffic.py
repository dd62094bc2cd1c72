"""How much one client may ask of the server: sizes, connections, rates and times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from spatialvla.errors import InputError


@dataclass(frozen=True)
class TrafficLimits:
    """max_message: bytes of one message. max_image: longest side of an image, pixels.

    max_connections: open at a time. rate: requests a second of one connection, in bursts of up to `burst`; a faster
    one is made to wait. Seconds: request_timeout, until a request that waits for the model is given up;
    send_timeout, until a client that reads nothing is disconnected; idle_timeout, until one that says nothing is;
    drain_timeout, for the requests under way when the server is told to stop.
    """

    max_message: int = 16 * 2**20
    max_image: int = 2048
    max_connections: int = 256
    rate: float = 200.0
    burst: int = 20
    request_timeout: float = 30.0
    send_timeout: float = 10.0
    idle_timeout: float = 3600.0
    drain_timeout: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"{name} must be positive, got {value}.")


class Throttle:
    """A token bucket: how long the next request of one connection has to wait."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._tokens, self._then = float(burst), clock()

    def delay(self) -> float:
        """Takes one token; seconds until it would have been there."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate) - 1
        self._then = now
        return max(0.0, -self._tokens / self._rate)
