"""One observation of LeRobot's robot client: its pickle's contents, by the names of the robot's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialvla.errors import InputError
from spatialvla.geometry.camera import fill_holes
from spatialvla.serving.lerobot.objects import read_object

STATE = "observation.state"
"""What LeRobot calls all the robot's numbers together; `Mapping.state` may name it."""

_MILLIMETRES = 1000
_Readable = bool | int | float | str | np.ndarray


@dataclass(frozen=True)
class Seen:
    """One observation of the client. timestep: of the action it executed last, 0 before the first.

    must_go: the client has nothing left to execute.
    """

    timestamp: float
    timestep: int
    must_go: bool
    message: dict[str, Any]


def names_of_numbers(feature: Any) -> tuple[str, ...]:
    """Names of the robot's numbers, in the order they have in its state."""
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def read_observation(data: bytes, numbers: tuple[str, ...]) -> Seen:
    """Raises InputError for a message that is no observation."""
    fields = read_object(data, "TimedObservation")
    content = fields.get("observation")
    timestamp, timestep = fields.get("timestamp"), fields.get("timestep")
    if not isinstance(content, dict) or type(timestep) is not int or not 0 <= timestep < 2**31 - 2**16:
        raise InputError("The TimedObservation lacks its observation or its timestep.")
    if not isinstance(timestamp, float) or not np.isfinite(timestamp):
        raise InputError("The TimedObservation has no time.")
    message = {str(key): entry if isinstance(entry, _Readable) else None for key, entry in content.items()}
    state = [message.get(name) for name in numbers]
    if state and all(isinstance(number, int | float) for number in state):
        message[STATE] = np.array(state, np.float64)
    return Seen(timestamp, timestep, fields.get("must_go") is True, message)


def with_depth(message: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The message with its depth picture in metres.

    LeRobot's depth cameras give (H, W) or (H, W, 1) whole millimetres, 0 where they see nothing.
    """
    depth = message.get(name or "")
    if not isinstance(depth, np.ndarray) or depth.dtype.kind != "u" or not depth.size:
        return message
    return {**message, str(name): fill_holes(depth.reshape(depth.shape[:2]) / _MILLIMETRES)}
