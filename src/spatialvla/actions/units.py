"""What 1 in a dataset's actions is: meters or units of a controller, angles or a rotation vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spatialvla.errors import CheckpointError, InputError

Rotation = Literal["euler", "rotation_vector"]
Frame = Literal["base", "gripper"]


@dataclass(frozen=True)
class ActionUnits:
    """The units of one dataset's actions (Δx, Δy, Δz, three of rotation, gripper); None is unknown.

    meters: length of 1 in the translation. radians: angle of 1 in the rotation.
    rotation: "euler" for roll, pitch, yaw of Rz(yaw) Ry(pitch) Rx(roll), or "rotation_vector".
    frame: whose axes both are along. gripper: its numbers when closed and when open, as the policy says them.
    control_hz: actions a second.
    Raises InputError for numbers that are not positive and finite.
    """

    meters: float | None = None
    radians: float | None = None
    rotation: Rotation | None = None
    frame: Frame | None = None
    gripper: tuple[float, float] | None = None
    control_hz: float | None = None

    def __post_init__(self) -> None:
        for name in ("meters", "radians", "control_hz"):
            number = getattr(self, name)
            if number is not None and not (isinstance(number, int | float) and 0 < number < np.inf):
                raise InputError(f"Units of actions are positive and finite, but {name} is {number!r}.")

    @property
    def known(self) -> bool:
        """Whether it is known how far an action moves the gripper."""
        return self.meters is not None and self.radians is not None

    def describe(self) -> str:
        """What 1 is, in a few words."""
        if not self.known:
            return "of unknown units"
        return f"1 = {self.meters:g} m, {self.radians:g} rad"

    def to_json(self) -> dict[str, Any]:
        """One entry of `action_units` in processor_config.json."""
        return {**vars(self), "gripper": None if self.gripper is None else list(self.gripper)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ActionUnits:
        """The inverse of `to_json`. Raises CheckpointError for what it does not write."""
        try:
            gripper = entry.get("gripper")
            return cls(**{**entry, "gripper": None if gripper is None else tuple(gripper)})
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"The units of actions cannot be read ({error}).") from None


UNKNOWN = ActionUnits()

LIBERO = ActionUnits(0.05, 0.5, "rotation_vector", "base", (0.0, 1.0), 20.0)
"""Of LIBERO's OSC_POSE controller, which LIBERO's datasets hold."""

_BRIDGE = ActionUnits(1.0, 1.0, "euler", "base", (0.0, 1.0), 5.0)
_PUBLISHED = {
    "libero": LIBERO,
    "bridge_orig": _BRIDGE,
    "bridge_dataset": _BRIDGE,
    "fractal20220817_data": ActionUnits(1.0, 1.0, "euler", "base", (0.0, 1.0), 3.0),
}


def published_units(dataset: str | None) -> ActionUnits:
    """What is known of a dataset by its key: those of the published evaluation; UNKNOWN for all others."""
    name = (dataset or "").lower()
    return next((units for part, units in _PUBLISHED.items() if part in name), UNKNOWN)
