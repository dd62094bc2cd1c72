"""One observation of LeRobot's robot client, read from its pickle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialvla.errors import InputError
from spatialvla.serving.lerobot.objects import read_object

STATE = "observation.state"
"""What LeRobot calls all the robot's numbers together; `ClientMapping.state` may name it."""

_MILLIMETERS = 1000
_Readable = bool | int | float | str | np.ndarray


@dataclass(frozen=True)
class TimedObservation:
    """One observation of the client. timestep: of the action it executed last, 0 before the first.

    timestamp: seconds on the client's clock. must_go: the client has nothing left to execute. message: its
    pictures and numbers, by the names of the robot's configuration.
    """

    timestamp: float
    timestep: int
    must_go: bool
    message: dict[str, Any]


def with_state(message: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The message with the robot's state, where it has a number for each of these names."""
    if not names or not has_numbers(message, names):
        return message
    return {**message, STATE: np.array([message[name] for name in names], np.float64)}


def has_numbers(message: dict[str, Any], names: tuple[str, ...]) -> bool:
    """Whether the message has a number for each of these names."""
    return all(isinstance(message.get(name), int | float) for name in names)


def read_observation(data: bytes) -> TimedObservation:
    """An observation without its state. Raises InputError for a message that is none."""
    fields = read_object(data, "TimedObservation")
    content = fields.get("observation")
    timestamp, timestep = fields.get("timestamp"), fields.get("timestep")
    if not isinstance(content, dict) or type(timestep) is not int or not 0 <= timestep < 2**31 - 2**16:
        raise InputError("The TimedObservation lacks its observation or its timestep.")
    if not isinstance(timestamp, float) or not np.isfinite(timestamp):
        raise InputError("The TimedObservation has no time.")
    message = {str(key): entry if isinstance(entry, _Readable) else None for key, entry in content.items()}
    return TimedObservation(timestamp, timestep, fields.get("must_go") is True, message)


def with_depth(message: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The message with its depth pictures in meters.

    LeRobot's depth cameras give (H, W) or (H, W, 1) whole millimeters, 0 where they see nothing.
    """
    meters = {}
    for name in names:
        depth = message.get(name)
        if isinstance(depth, np.ndarray) and depth.dtype.kind == "u" and depth.size:
            meters[name] = depth.reshape(depth.shape[:2]) / _MILLIMETERS
    return {**message, **meters}
