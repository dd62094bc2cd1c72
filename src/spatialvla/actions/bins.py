"""What of an action is cut into bins, and where: truncated Gaussians in parts of equal probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spatialvla.common.json_files import read_json
from spatialvla.errors import InputError

BLOCKS = {"translation": ("theta", "phi", "r"), "rotation": ("roll", "pitch", "yaw")}
"""The dimensions that share a token, slowest index first."""

DIMENSION_RANGES = {
    "theta": (0.0, float(np.pi)),
    "phi": (-float(np.pi), float(np.pi)),
    "r": (0.0, float(np.sqrt(3.0))),
    "roll": (-1.0, 1.0),
    "pitch": (-1.0, 1.0),
    "yaw": (-1.0, 1.0),
}
"""All dimensions and their ranges for normalized actions; r reaches the corners of the cube [-1, 1]³."""


@dataclass(frozen=True)
class Bins:
    """How many bins each continuous dimension has. The defaults are the published ones."""

    theta: int = 16
    """Of a motion's angle from the z axis."""

    phi: int = 32
    """Of its angle around the z axis."""

    r: int = 8
    """Of its length."""

    roll: int = 16
    """Of the rotation about x."""

    pitch: int = 16
    """Of the rotation about y."""

    yaw: int = 16
    """Of the rotation about z."""

    def __post_init__(self) -> None:
        for name, count in vars(self).items():
            if count < 1:
                raise InputError(f"Each dimension needs at least one bin, but {name} has {count}.")


PUBLISHED_BINS = Bins()
"""8,194 tokens."""

NANO_BINS = Bins(theta=12, phi=24, r=8, roll=5, pitch=5, yaw=5)
"""Our small model's. Few enough cells that some hundred demonstrations visit most; odd rotation counts have a
cell around zero."""


class Gaussian(NamedTuple):
    """Mean and standard deviation of one action dimension, before truncation to its range."""

    mu: float
    sigma: float


def read_gaussians(file: Path) -> dict[str, Gaussian]:
    """The Gaussians in a file such as the published code's gs_bridge.json: {"theta": {"mu", "sigma"}, …}.

    Raises InputError where the file cannot be read, or lacks a dimension.
    """
    content = read_json(file, "give the Gaussians that were fitted to a dataset's actions", InputError)
    try:
        return {
            name: Gaussian(float(content[name]["mu"]), float(content[name]["sigma"]))
            for name in DIMENSION_RANGES
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} holds no mu and sigma for each of {', '.join(DIMENSION_RANGES)} ({error!r}); name another file."
        ) from None


def fit_gaussians(coordinates: Mapping[str, Float[np.ndarray, " n"]]) -> dict[str, Gaussian]:
    """Mean and standard deviation of each dimension, from what `action_coordinates` makes of n actions.

    Raises InputError where there are no actions.
    """
    for name, values in coordinates.items():
        if values.ndim != 1 or not values.size:
            raise InputError(f"Fitting {name} needs the values of at least one action, not {values.shape}.")
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
