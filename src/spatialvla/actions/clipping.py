"""What is lost of actions beyond the statistics that normalize them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spatialvla.types import ACTION_AXES


@dataclass(frozen=True)
class Clipping:
    """Of one number of an action.

    share: of the actions that are clipped. mean, most: how far these lie outside, in normalized units: at 1,
    where the statistics reach as far to either side, a motion is decoded half as fast as it was shown.
    """

    share: float
    mean: float
    most: float


def clipping(beyond: Float[np.ndarray, "n 7"]) -> dict[str, Clipping]:
    """By number of an action. beyond: of n > 0 actions, see `ActionStatistics.beyond`."""
    found = {}
    for name, column in zip(ACTION_AXES, np.abs(beyond).T, strict=True):
        outside = column[column > 0]
        mean, most = (outside.mean(), outside.max()) if len(outside) else (0.0, 0.0)
        found[name] = Clipping(len(outside) / len(column), float(mean), float(most))
    return found
