"""What 1 in a dataset's actions is: meters or units of a controller, angles or a rotation vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np

from spatialvla.errors import CheckpointError, InputError

Rotation = Literal["euler", "rotation_vector"]
Frame = Literal["base", "gripper"]

_MOVING = ("meters", "radians", "rotation", "frame")
_WORDS = {
    "meters": "meters a unit",
    "radians": "radians a unit",
    "rotation": "rotation",
    "frame": "frame",
    "gripper": "gripper closed and open",
    "control_hz": "control rate in Hz",
}
_SAME_NUMBER = 1e-3
"""Relative; numbers that are as near are written alike."""


@dataclass(frozen=True)
class ActionUnits:
    """The units of one dataset's actions (Δx, Δy, Δz, three of rotation, gripper); None is unknown.

    meters: length of 1 in the translation. radians: angle of 1 in the rotation.
    rotation: "euler" for roll, pitch, yaw of Rz(yaw) Ry(pitch) Rx(roll), or "rotation_vector".
    frame: whose axes both are along. gripper: its numbers when closed and when open, as the policy says them.
    control_hz: actions a second.
    Raises InputError for numbers that are not positive and finite, and for unknown words.
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
            if number is not None and not (_is_number(number) and 0 < number < np.inf):
                raise InputError(f"Units of actions are positive and finite, but {name} is {number!r}.")
        for name, words in (("rotation", get_args(Rotation)), ("frame", get_args(Frame))):
            word = getattr(self, name)
            if word is not None and word not in words:
                raise InputError(f"Units of actions have the {name} {' or '.join(words)}, not {word!r}.")
        if self.gripper is not None:
            ends = self.gripper
            if len(ends) != 2 or not all(map(_is_number, ends)) or not np.isfinite(ends).all():
                raise InputError(f"A gripper has two finite ends, closed and open, not {ends!r}.")
            if ends[0] == ends[1]:
                raise InputError(f"A gripper's closed and open end differ, but both are {ends[0]:g}.")

    @property
    def known(self) -> bool:
        """Whether it is known how far an action moves the gripper, and where to."""
        return not self.unknown

    @property
    def unknown(self) -> tuple[str, ...]:
        """What of the motion is not known, by its names here."""
        return tuple(name for name in _MOVING if getattr(self, name) is None)

    def differences(self, other: ActionUnits) -> tuple[str, ...]:
        """A phrase for each thing that both know and of which they say something else: ours, then the other's."""
        found = []
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(other, field.name)
            if ours is not None and theirs is not None and not _agree(ours, theirs):
                found.append(f"{_WORDS[field.name]} {_said(ours)}, not {_said(theirs)}")
        return tuple(found)

    def filled(self, other: ActionUnits) -> ActionUnits:
        """These units, and where they say nothing what the other ones say."""
        said = {name: value for name, value in vars(self).items() if value is not None}
        return replace(other, **said)

    def describe(self) -> str:
        """What 1 is, in a few words."""
        if self.meters is None or self.radians is None:
            return "of unknown units"
        return f"1 = {self.meters:g} m, {self.radians:g} rad"

    def axes(self) -> list[dict[str, Any]]:
        """What each of an action's seven numbers is: its name, what 1 in it is, and whose axes it is along.

        The gripper has its closed and open end instead. None is unknown.
        """
        vector = self.rotation == "rotation_vector"
        turns = ("rotation_x", "rotation_y", "rotation_z") if vector else ("roll", "pitch", "yaw")
        closed, opened = self.gripper or (None, None)
        parts = (("xyz", self.meters, "meters"), (turns, self.radians, "radians"))
        moving = [
            {"name": name, "one_is": size, "unit": unit, "frame": self.frame, "kind": "change in one step"}
            for names, size, unit in parts
            for name in names
        ]
        return [*moving, {"name": "gripper", "closed": closed, "open": opened, "kind": "absolute"}]

    def to_json(self) -> dict[str, Any]:
        """One entry of `action_units` in processor_config.json."""
        return {**vars(self), "gripper": None if self.gripper is None else list(self.gripper)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any] | None) -> ActionUnits:
        """The inverse of `to_json`; None is unknown. Raises CheckpointError for what it does not write."""
        if entry is None:
            return cls()
        try:
            gripper = entry.get("gripper")
            return cls(**{**entry, "gripper": None if gripper is None else tuple(gripper)})
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"The units of actions cannot be read ({error}).") from None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return bool(one == other)
    return bool(np.allclose(one, other, rtol=_SAME_NUMBER, atol=0))


def _said(value: Any) -> str:
    if isinstance(value, tuple):
        return " and ".join(f"{end:g}" for end in value)
    return str(value) if isinstance(value, str) else f"{value:g}"


UNKNOWN = ActionUnits()

STANDARD_GRIPPER = (0.0, 1.0)
"""Closed and open, as every dataset here says it once it is read, and every policy."""

LIBERO = ActionUnits(0.05, 0.5, "rotation_vector", "base", STANDARD_GRIPPER, 20.0)
"""Of LIBERO's OSC_POSE controller, which LIBERO's datasets hold."""

BRIDGE = ActionUnits(1.0, 1.0, "euler", "base", STANDARD_GRIPPER, 5.0)
"""Of BridgeData V2 (arXiv 2308.12952, §IV), differences of measured poses, and of SimplerEnv's widowx_bridge."""
