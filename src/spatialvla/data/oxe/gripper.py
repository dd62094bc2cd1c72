"""Grippers of many conventions -> 1 = open, 0 = closed. All functions take and return (T,) numbers."""

from __future__ import annotations

import numpy as np

_MOVES = 0.1  # a relative command of less than this leaves the gripper as it is
_SETTLED = 0.05  # from 0 or 1


def inverted(closed: np.ndarray) -> np.ndarray:
    """1 = closed becomes 1 = open."""
    return 1.0 - closed


def clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0.0, 1.0)


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
