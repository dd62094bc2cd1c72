"""Truncated Gaussians: fitted to actions, and cut into bins of equal probability."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spatialvla.actions.coordinates import action_coordinates
from spatialvla.errors import InputError


class Gaussian(NamedTuple):
    """Mean and standard deviation of one action dimension, before truncation to its range."""

    mu: float
    sigma: float


def fit_gaussians(actions: Float[np.ndarray, "n 7"]) -> dict[str, Gaussian]:
    """Mean and standard deviation of each grid dimension over normalized actions (n, 7).

    Raises InputError on an empty array, other shapes, NaN or infinity.
    """
    coordinates = action_coordinates(actions)
    if coordinates["r"].ndim != 1 or not coordinates["r"].size:
        raise InputError(f"Fitting needs at least one action (n, 7), got {np.shape(actions)}.")
    return {
        name: Gaussian(float(np.mean(values, dtype=np.float64)), float(np.std(values, dtype=np.float64)))
        for name, values in coordinates.items()
    }


def equal_probability_edges(gaussian: Gaussian, bins: int, low: float, high: float) -> tuple[float, ...]:
    """The bins + 1 edges that cut N(mu, sigma²), truncated to [low, high], into equal probability masses.

    The outer edges are exactly low and high. Raises InputError where the Gaussian is too narrow, or too far
    from the range, for the edges to be distinct numbers. Paper section 3.2.
    """
    mu, sigma = gaussian
    if low > mu:
        # Probabilities near 1 lose their digits, so the upper tail is cut as the mirrored lower one.
        mirrored = equal_probability_edges(Gaussian(-mu, sigma), bins, -high, -low)
        return tuple(-edge for edge in reversed(mirrored))
    if math.isfinite(mu) and math.isfinite(sigma) and sigma > 0:
        p_low, p_high = (0.5 * math.erfc((mu - edge) / sigma / math.sqrt(2)) for edge in (low, high))
        inner = (p_low + (p_high - p_low) * (k / bins) for k in range(1, bins))
        edges = (low, *(mu + sigma * NormalDist().inv_cdf(p) if 0 < p < 1 else math.nan for p in inner), high)
        if all(left < right for left, right in pairwise(edges)):
            return edges
    raise InputError(
        f"A Gaussian with mean {mu} and standard deviation {sigma} cannot be cut into {bins} distinct bins "
        f"in [{low}, {high}]; raise min_sigma."
    )
