"""Which of the two states of LIBERO's arm a policy learned, told by the names of its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spatialvla.simulation.recording.demonstration import RECORDED_ROTATION, STATE_NAMES

_OTHER_STATES = re.compile(r"roll|pitch|yaw|q[xyzw]|joint|pad")
"""In the names of states with another meaning, such as Euler angles, quaternions or joints."""


def is_of_libero(names: Sequence[str]) -> bool:
    """Whether numbers of these names are a state that LIBERO's datasets have, as far as names tell."""
    return len(names) == len(STATE_NAMES) and not any(_OTHER_STATES.search(name.lower()) for name in names)


def is_published(names: Sequence[str]) -> bool:
    """Whether it is the state of LIBERO's own datasets, not of those that `record` writes.

    The rotations differ by 90 degrees: see `LiberoEnv.proprioception`. Converters of LIBERO's own call them
    `axis_angle1`, and `record` calls its own `axis_angle_x`.
    """
    return not any(RECORDED_ROTATION in name for name in names)
