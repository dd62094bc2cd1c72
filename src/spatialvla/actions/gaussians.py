"""Truncated Gaussians: fitting them to actions and cutting them into bins of equal probability."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

from spatialvla.errors import InputError


class Gaussian(NamedTuple):
    """Mean and standard deviation of one action dimension, before truncation to its range."""

    mu: float
    sigma: float


def equal_probability_edges(gaussian: Gaussian, bins: int, low: float, high: float) -> tuple[float, ...]:
    """The bins + 1 edges that cut N(mu, sigma²), truncated to [low, high], into equal probability masses.

    The outer edges are exactly low and high. Raises InputError where the Gaussian is too narrow, or too far
    from the range, for its quantiles to be distinct numbers. Paper section 3.2, equations 3 and 4.
    """
    mu, sigma = gaussian
    if not (math.isfinite(mu) and math.isfinite(sigma) and sigma > 0):
        raise InputError(
            f"cannot place bins for a Gaussian with mean {mu} and standard deviation {sigma}: "
            "the deviation must be positive; raise min_sigma"
        )
    # Probabilities near 1 lose all their digits; above the mean, work in the mirrored lower tail instead.
    mirrored = low > mu
    sign = -1.0 if mirrored else 1.0
    start, stop = (high, low) if mirrored else (low, high)
    p_start, p_stop = (_normal_cdf(sign * (edge - mu) / sigma) for edge in (start, stop))
    inner = []
    for k in range(1, bins):
        p = p_start + (p_stop - p_start) * (k / bins)
        if not 0 < p < 1:
            raise InputError(
                f"a Gaussian with mean {mu} and deviation {sigma} has no mass in [{low}, {high}]"
            )
        inner.append(mu + sign * sigma * NormalDist().inv_cdf(p))
    edges = (low, *(reversed(inner) if mirrored else inner), high)
    if any(right <= left for left, right in zip(edges, edges[1:], strict=False)):
        raise InputError(
            f"{bins} bins of a Gaussian with mean {mu} and deviation {sigma} fall together in [{low}, {high}]; "
            "raise min_sigma"
        )
    return edges


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))
