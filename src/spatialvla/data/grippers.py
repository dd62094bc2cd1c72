"""Grippers of many conventions -> 1 = open, 0 = closed. All functions take and return (T,) numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialvla.errors import InputError

_MOVES = 0.1  # a relative gripper command of less than this leaves the gripper as it is
_SETTLED = 0.05  # from 0 or 1


@dataclass(frozen=True)
class GripperMapping:
    """How the gripper becomes 1 = open, 0 = closed.

    feature, index: where it is, the last of the action's numbers unless given. open: whether `max` (1) or
    `min` (0) is open. What lies outside of min and max is clipped. commands: whether the two are commands to
    open and to close, and what lies halfway changes nothing.
    """

    feature: str | None = None
    index: int = 0
    open: int = 1
    min: float = 0.0
    max: float = 1.0
    commands: bool = False

    def __post_init__(self) -> None:
        if self.open not in (0, 1) or not self.min < self.max:
            raise InputError("the gripper needs 'open: 1' or 'open: 0', and a min below its max.")

    def opening(self, values: np.ndarray) -> np.ndarray:
        """(T,) as stored -> (T,) in [0, 1] with 1 = open."""
        share = np.clip((values - self.min) / (self.max - self.min), 0.0, 1.0)
        opening = np.asarray(share if self.open == 1 else 1.0 - share)
        return from_closing_commands(1.0 - 2.0 * opening) if self.commands else opening


def inverted(closed: np.ndarray) -> np.ndarray:
    """1 = closed becomes 1 = open."""
    return 1.0 - closed


def clipped(values: np.ndarray) -> np.ndarray:
    """Cut to [0, 1]."""
    return np.asarray(np.clip(values, 0.0, 1.0))


def from_closing_commands(commands: np.ndarray) -> np.ndarray:
    """+1 closes, -1 opens, 0 changes nothing. Before the first command the gripper is the opposite of it.

    An episode without any command counts as open. (Octo and OpenVLA read these datasets alike.)
    """
    state = np.where(commands < -_MOVES, 1.0, np.where(commands > _MOVES, 0.0, np.nan))
    given = np.flatnonzero(~np.isnan(state))
    if not len(given):
        return np.ones(len(commands))
    last = np.searchsorted(given, np.arange(len(state)), side="right") - 1
    return np.where(last >= 0, state[given[np.maximum(last, 0)]], 1.0 - state[given[0]])


def settled(values: np.ndarray) -> np.ndarray:
    """Measured openings on their way take the value they settle at; what never settles takes the last one."""
    arrived = np.flatnonzero((values > 1 - _SETTLED) | (values < _SETTLED))
    following = np.searchsorted(arrived, np.arange(len(values)))
    is_open = np.append(values[arrived] > 1 - _SETTLED, values[-1:]).astype(np.float64)
    return is_open[following]
