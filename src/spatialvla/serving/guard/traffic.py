"""How much one client may ask of the server: sizes, connections, rates and times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from spatialvla.errors import InputError


@dataclass(frozen=True)
class TrafficLimits:
    """The most a client may send, and the longest it may take. Raises InputError for what is not positive."""

    max_message_mb: float = 16.0
    """Largest message, in MiB."""

    max_image: int = 2048
    """Longest side of an image, in pixels."""

    max_connections: int = 256
    """Clients at a time."""

    rate: float = 200.0
    """Requests a second of one connection; a faster one is made to wait."""

    burst: int = 20
    """Requests of one connection that may come at once before its rate counts."""

    request_timeout: float = 30.0
    """Seconds that a request may wait for the model."""

    send_timeout: float = 10.0
    """Seconds after which a client that reads nothing is disconnected."""

    idle_timeout: float = 3600.0
    """Seconds of silence after which a client is disconnected."""

    drain_timeout: float = 30.0
    """Seconds for the requests under way when the server is told to stop."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"{name} must be positive, got {value}.")

    @property
    def max_message(self) -> int:
        """Largest message, in bytes."""
        return int(self.max_message_mb * 2**20)


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
