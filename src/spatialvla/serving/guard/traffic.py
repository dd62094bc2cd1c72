"""How much one client may ask of the server: sizes, connections, rates and times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from spatialvla.errors import InputError

if TYPE_CHECKING:
    from spatialvla.types import Observation

MAX_INSTRUCTION = 1000
"""Characters; the longest instruction of any Open X-Embodiment dataset is far below."""


@dataclass(frozen=True)
class TrafficLimits:
    """The most a client may send, and the longest it may take."""

    max_message_mb: float = 16.0
    """Largest message, in MiB."""

    max_image: int = 2048
    """Longest side of an image, in pixels."""

    max_connections: int = 256
    """Clients at a time."""

    max_per_address: int = 64
    """Clients of one address at a time; loopback, where tunnels and proxies end, has no bound of its own."""

    memory_mb: float = 512.0
    """MiB that the messages of all clients may take, while they arrive and until they are answered."""

    rate: float = 200.0
    """Requests a second of one connection; a faster one is made to wait."""

    burst: int = 20
    """Requests of one connection that may come at once before its rate counts."""

    request_timeout: float = 30.0
    """Seconds that a request may wait for the model."""

    message_timeout: float = 30.0
    """Seconds in which a message that has begun has to be whole."""

    longest_age: float = 5.0
    """Seconds from a LeRobot client's observation to the answer, after which the answer is not sent."""

    send_timeout: float = 10.0
    """Seconds after which a client that reads nothing is disconnected."""

    idle_timeout: float = 3600.0
    """Seconds of silence after which a client is disconnected."""

    drain_timeout: float = 30.0
    """Seconds for the requests under way when the server is told to stop."""

    stop_notice: float = 1.0
    """Seconds, at least, for which /healthz says that the server is stopping before its port closes."""

    def __post_init__(self) -> None:
        """Raises InputError for what is not positive and finite."""
        for name, value in vars(self).items():
            if not 0 < value < inf:
                raise InputError(f"{name} must be positive and finite, got {value}.")

    @property
    def max_message(self) -> int:
        """Largest message, in bytes."""
        return int(self.max_message_mb * 2**20)

    @property
    def memory(self) -> int:
        """What all messages may take, in bytes."""
        return int(self.memory_mb * 2**20)

    def check(self, observation: Observation) -> None:
        """Raises InputError for no instruction, and for one or a picture that is too large to be looked at."""
        import numpy as np  # not above: the command line shows these limits without it

        if not observation.instruction.strip():  # whatever template it enters
            raise InputError("The instruction is empty; say what the robot is to do.")
        length = len(observation.instruction)
        if length > MAX_INSTRUCTION:
            raise InputError(f"The instruction has {length} characters; {MAX_INSTRUCTION} are allowed.")
        pictures = [("image", observation.image), ("depth map", observation.depth)]
        for camera, seen in observation.images.items():
            pictures += [(f"image of the camera {camera}", seen.image)]
            pictures += [(f"depth map of the camera {camera}", seen.depth)]
        for name, picture in pictures:
            if picture is None:
                continue
            shape = picture.shape if isinstance(picture, np.ndarray) else picture.size
            if len(shape) < 2 or not all(1 <= side <= self.max_image for side in shape[:2]):
                raise InputError(
                    f"The {name} has shape {tuple(shape)}; sides of 1 to {self.max_image} are allowed."
                )


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
