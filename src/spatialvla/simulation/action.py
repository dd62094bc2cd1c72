"""A policy's action, checked before a simulated robot carries it out."""

from __future__ import annotations

import numpy as np

from spatialvla.errors import InputError


def checked_action(action: np.ndarray) -> np.ndarray:
    """The action (7,) as float64. Raises InputError unless it is 7 finite numbers."""
    action = np.asarray(action, dtype=np.float64)
    if action.shape != (7,) or not np.isfinite(action).all():
        raise InputError(f"An action is 7 finite numbers, not {action.tolist()}; check the policy's output.")
    return action
