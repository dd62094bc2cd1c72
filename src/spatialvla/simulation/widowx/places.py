"""Where the things of a WidowX task stand at the start: drawn around SimplerEnv's places, never at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MARGIN = 0.03  # meters beyond the outermost of SimplerEnv's places
CLOSEST = 0.8  # of the least distance between the two things in SimplerEnv's episodes
NEAR = 0.015  # meters from its place in one of SimplerEnv's episodes; both things may not be so near


@dataclass(frozen=True)
class Places:
    """Of the thing to move and what to put it on, in SimplerEnv's world, before they have settled.

    positions: meters. orientations: quaternions w, x, y, z.
    """

    positions: Float[np.ndarray, "2 3"]
    orientations: Float[np.ndarray, "2 4"]

    def near(self, other: Places) -> bool:
        """Whether both things stand nearly where they stand in `other`, however they are turned."""
        shift = self.positions[:, :2] - other.positions[:, :2]
        return bool((np.linalg.norm(shift, axis=1) < NEAR).all())

    @property
    def distance(self) -> float:
        """Meters between the two things, along the table."""
        return float(np.linalg.norm(self.positions[0, :2] - self.positions[1, :2]))


def draw_places(rng: np.random.Generator, stored: Sequence[Places]) -> Places:
    """Places that no episode of SimplerEnv has, drawn evenly from a rectangle around those that they have.

    The things are turned by any angle about the plumb line, from one of the orientations that they are stored in. What
    always stands in the same place, as the photographed basket does, stays there as it is.
    stored: the places of SimplerEnv's episodes.
    """
    positions = np.stack([places.positions for places in stored])
    low, high = positions.min(axis=0), positions.max(axis=0)
    moving = np.ptp(positions, axis=0).any(axis=1)
    margin = MARGIN * moving[:, None] * [1, 1, 0]
    closest = CLOSEST * min(places.distance for places in stored)
    while True:
        orientations = stored[int(rng.integers(len(stored)))].orientations
        turned = [_turned(orientation, rng.uniform(-np.pi, np.pi)) for orientation in orientations]
        drawn = Places(
            rng.uniform(low - margin, high + margin), np.where(moving[:, None], turned, orientations)
        )
        if drawn.distance >= closest and not any(drawn.near(places) for places in stored):
            return drawn


def _turned(orientation: np.ndarray, angle: float) -> np.ndarray:
    """A quaternion (4,), turned about the plumb line by `angle` in radians."""
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    w, x, y, z = orientation
    return np.array([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w])
