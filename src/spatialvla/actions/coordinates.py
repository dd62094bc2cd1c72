"""The coordinates in which actions are cut into bins: spherical translation, roll, pitch and yaw."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

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


def checked_actions(actions: np.ndarray) -> Float[np.ndarray, "*steps 7"]:
    """Actions (..., 7) as float32 (kept) or float64; InputError on other shapes and on NaN or infinity."""
    values = np.asarray(actions)
    if values.ndim < 1 or values.shape[-1] != 7:
        raise InputError(f"Actions must be (..., 7), got {values.shape}.")
    if values.dtype != np.float32:
        values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"Actions must be finite, but {int((~np.isfinite(values)).sum())} numbers are not.")
    return values


def action_coordinates(actions: Float[np.ndarray, "*steps 7"]) -> dict[str, np.ndarray]:
    """Normalized actions (..., 7) -> each of DIMENSION_RANGES, (...), in the same precision.

    The translation is clipped to [-1, 1] first. Raises InputError like `checked_actions`.
    """
    values = checked_actions(actions)
    spherical = cartesian_to_spherical(np.clip(values[..., :3], -1.0, 1.0))
    rotation = np.moveaxis(values[..., 3:6], -1, 0)
    return dict(zip(DIMENSION_RANGES, (*spherical, *rotation), strict=True))


def cartesian_to_spherical(
    xyz: Float[np.ndarray, "*points 3"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """xyz (..., 3) -> theta in [0, π] from +z, phi in [-π, π] from +x, r >= 0, each (...)."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.arctan2(np.sqrt(x**2 + y**2), z), np.arctan2(y, x), np.sqrt(x**2 + y**2 + z**2)


def spherical_to_cartesian(
    theta: np.ndarray, phi: np.ndarray, r: np.ndarray
) -> Float[np.ndarray, "*points 3"]:
    """The inverse: theta, phi, r, each (...) -> xyz (..., 3)."""
    return np.stack(
        [r * np.sin(theta) * np.cos(phi), r * np.sin(theta) * np.sin(phi), r * np.cos(theta)], axis=-1
    )
