"""A chunk of actions as arrows in space, each from where the one before it ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spatialvla.actions.units import ActionUnits

_ORIGIN = np.zeros(3)


@dataclass(frozen=True)
class ChunkArrows:
    """The translations of a chunk.

    loose: why they cannot be drawn in the robot's frame, "" where they are.
    origins, vectors: in meters in the robot's frame; where loose from an origin of their own, along the axes that the
    actions are along, in meters where these are known.
    """

    origins: Float[np.ndarray, "T 3"]
    vectors: Float[np.ndarray, "T 3"]
    loose: str = ""

    @classmethod
    def of(
        cls, actions: Float[np.ndarray, "T 7"], units: ActionUnits, gripper: Float[np.ndarray, "3"] | None
    ) -> ChunkArrows:
        """gripper: where it is, in meters in the robot's frame; None where it is not known."""
        vectors = actions[:, :3] * (units.meters or 1.0)
        loose = why_loose(units, gripper)
        start = _ORIGIN if loose or gripper is None else gripper
        return cls(start + np.cumsum(vectors, axis=0) - vectors, vectors, loose)


def why_loose(units: ActionUnits, gripper: np.ndarray | None) -> str:
    """Why actions cannot be drawn in the robot's frame; "" where they can be."""
    if units.meters is None:
        return "nobody says how long 1 in the actions is"
    if units.frame is None:
        return "nobody says along whose axes they are"
    if units.frame != "base":
        return "they are along the gripper's axes"
    return "nobody says where the gripper is" if gripper is None else ""
