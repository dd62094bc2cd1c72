"""The path along which a chunk of actions leads the gripper, and whether its place in the robot's frame is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spatialvla.actions.units import ActionUnits

_ORIGIN = np.zeros(3)


@dataclass(frozen=True)
class MotionPath:
    """Where the translations of a chunk lead, each from where the one before it ends.

    points: one more than actions, from where the gripper is on, in meters in the robot's frame. Where unplaced, from
    an origin of its own, along the axes that the actions are along, in meters where these are known.
    unplaced: why it has no place in the robot's frame, "" where it has one.
    """

    points: Float[np.ndarray, "N 3"]
    unplaced: str = ""

    @classmethod
    def of(
        cls, actions: Float[np.ndarray, "T 7"], units: ActionUnits, gripper: Float[np.ndarray, "3"] | None
    ) -> MotionPath:
        """gripper: where it is, in meters in the robot's frame; None where it is not known."""
        moved = np.cumsum(actions[:, :3] * (units.meters or 1.0), axis=0)
        unplaced = why_unplaced(units, gripper)
        start = _ORIGIN if unplaced or gripper is None else gripper
        return cls(start + np.concatenate([np.zeros((1, 3)), moved]), unplaced)

    @property
    def steps(self) -> Float[np.ndarray, "T 3"]:
        """The vector of each action, from its point to the next one."""
        return np.diff(self.points, axis=0)


def why_unplaced(units: ActionUnits, gripper: np.ndarray | None) -> str:
    """Why actions have no place in the robot's frame; "" where they have one."""
    if units.meters is None:
        return "nobody says how long 1 in the actions is"
    if units.frame is None:
        return "nobody says along whose axes they are"
    if units.frame != "base":
        return "they are along the gripper's axes"
    return "nobody says where the gripper is" if gripper is None else ""
