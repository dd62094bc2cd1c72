"""A policy's action -> the numbers that a Gymnasium environment's `step` takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spatialvla.actions.units import ActionUnits
from spatialvla.errors import InputError
from spatialvla.geometry.rotations import Notation, matrices, notated
from spatialvla.simulation.gym.mapping import GymMapping


@dataclass(frozen=True)
class Commands:
    """What an environment is told, in its own units.

    units: of the policy's actions; what they do not say is as the environment has it.
    low, high: (N,) the bounds of the environment's action; what lies beyond is cut off there.
    Raises InputError for an environment that takes another number of numbers than the mapping says.
    """

    mapping: GymMapping
    units: ActionUnits
    low: Float[np.ndarray, " N"]
    high: Float[np.ndarray, " N"]

    def __post_init__(self) -> None:
        told, size = self.mapping.action.indices, len(self.low)
        if not told and size != self.mapping.numbers:
            raise InputError(
                f"the environment's action has {size} numbers, and the mapping tells of {self.mapping.numbers}; "
                "correct rotation and gripper, or say which they are with 'action: {indices: [...]}'."
            )
        if max(told, default=0) >= size:
            raise InputError(f"the environment's action has the indices 0 to {size - 1}, not {max(told)}.")

    def __call__(self, action: Float[np.ndarray, "7"]) -> Float[np.ndarray, " N"]:
        """An action of the policy's, gripper 1 = open, in the environment's units and within its bounds."""
        theirs = self.mapping.units
        ours = self.units.filled(theirs)
        parts = [action[:3] * _ratio(ours.meters, theirs.meters)]
        if theirs.rotation is not None:
            parts.append(_turn(action[3:6], ours, theirs))
        if ends := self.mapping.gripper:
            parts.append(np.array([ends.closed + (ends.open - ends.closed) * action[6]]))
        moved = np.concatenate(parts)
        command = np.zeros(len(self.low))
        command[list(self.mapping.action.indices) or slice(None)] = moved
        return np.clip(command, self.low, self.high)


def _turn(turn: Float[np.ndarray, "3"], ours: ActionUnits, theirs: ActionUnits) -> Float[np.ndarray, "3"]:
    """A rotation of the policy's in the environment's notation and unit."""
    angles = turn * _ratio(ours.radians, 1.0)
    if ours.rotation != theirs.rotation:
        notations: tuple[Notation, Notation] = ("euler", "axis_angle")
        told, taken = notations if ours.rotation == "euler" else notations[::-1]
        angles = notated(matrices(angles[None], told), taken)[0]
    return np.asarray(angles * _ratio(1.0, theirs.radians))


def _ratio(ours: float | None, theirs: float | None) -> float:
    """What 1 of the policy's is in the environment's; a mapping states its own, and fills what a policy leaves open."""
    assert ours is not None
    assert theirs is not None
    return ours / theirs
