"""Workspace: the place and size that positions are encoded relative to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spatialvla.errors import InputError


@dataclass(frozen=True)
class Workspace:
    """Ego3D encodes (position − center) / scale.

    center: x, y, z in meters of the frame that positions are in. scale: meters.
    Raises InputError for numbers that are not finite, or a scale that is not positive.
    """

    center: tuple[float, float, float]
    scale: float

    def __post_init__(self) -> None:
        if len(self.center) != 3 or not all(map(math.isfinite, self.center)):
            raise InputError(f"A workspace's center is x, y, z in meters, not {self.center}.")
        if not 0 < self.scale < math.inf:
            raise InputError(f"A workspace's scale is a positive length in meters, not {self.scale:g}.")


PUBLISHED = Workspace((0.0, 0.0, 2.0), 2.0)
"""In the camera's frame: 2 m in front of it."""

AROUND_BASE = Workspace((0.0, 0.0, 0.0), 2.0)
"""In the robot's frame, of the published scale."""
