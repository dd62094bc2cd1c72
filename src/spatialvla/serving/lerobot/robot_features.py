"""What a robot of LeRobot's says that it has, held against what the policy looks at."""

from __future__ import annotations

import logging
from typing import Any

from spatialvla.errors import InputError
from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.client_keys import StateLayout, StatePart
from spatialvla.serving.lerobot.observation import STATE

log = logging.getLogger(__name__)


def names_of_numbers(feature: Any) -> tuple[str, ...]:
    """Names of the robot's numbers, in the order they have in its state."""
    names = feature.get("names") if isinstance(feature, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def check_features(features: dict[Any, Any], interface: ClientInterface) -> None:
    """Raises InputError for a robot without the policy's first camera, or with another state.

    So without any of its cameras or its state, where all are required; else what is missing is told in the log.
    """
    mapping, names = interface.mapping, names_of_numbers(features.get(STATE))
    cameras = [key.removeprefix("observation.images.") for key in map(str, features) if ".images." in key]
    has = ", ".join(cameras) or "none"
    if mapping.first.image not in cameras:
        raise InputError(
            f"The robot has the cameras {has}, but the server's mapping {mapping.name!r} looks through "
            f"{mapping.first.image!r}; write a mapping that names one of them."
        )
    missing = [name for name, keys in interface.cameras.items() if keys.image not in cameras]
    if mapping.states == (StateLayout((StatePart(STATE),)),) and interface.state_names:
        if names and len(names) != len(interface.state_names):
            raise InputError(
                f"The robot's state has {len(names)} numbers ({', '.join(names)[:200]}), and the policy's "
                f"{len(interface.state_names)} ({', '.join(interface.state_names)[:200]}); write a mapping whose state "
                "lists those, in order."
            )
        missing += [] if names else ["state"]
    if missing and interface.required:
        raise InputError(
            f"The robot has the cameras {has}, but lacks what the policy has to have: {', '.join(missing)}."
        )
    if missing:
        log.warning("The robot lacks %s; the policy does without.", ", ".join(missing))
