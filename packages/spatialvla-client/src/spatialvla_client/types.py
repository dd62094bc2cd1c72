"""What is sent and what comes back: an observation and a chunk of actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Observation:
    """What the robot sees now.

    image: (H, W, 3) uint8 RGB. instruction: what to do, in plain words. intrinsics: K (3, 3) in pixels of the image.
    depth: (H, W) metres from a sensor. position: (3,) metres of the gripper in the frame of the workspace limits.
    """

    image: np.ndarray
    instruction: str
    intrinsics: np.ndarray | None = None
    depth: np.ndarray | None = None
    position: np.ndarray | None = None


@dataclass(frozen=True)
class ActionChunk:
    """Actions for the next steps, first to last.

    actions: (T, 7) Δx Δy Δz Δroll Δpitch Δyaw gripper, in units and with the gripper that `Client.metadata` tells.
    tokens: (T, 3) the token numbers they came from, −1 for a step that only fills up.
    timing: milliseconds by stage on the server, and `round_trip_ms`.
    """

    actions: np.ndarray
    tokens: np.ndarray
    timing: Mapping[str, float] = field(default_factory=dict)
