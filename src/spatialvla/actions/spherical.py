"""Cartesian and spherical translation, polar angle measured from +z (physics convention)."""

from __future__ import annotations

import numpy as np

R_MAX = float(np.sqrt(3.0))
"""Length of the diagonal of the unit cube: the longest translation normalised to [-1, 1] per axis."""


def cartesian_to_spherical(xyz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """xyz (..., 3) -> theta in [0, π], phi in [-π, π], r >= 0, each (...), in the dtype of xyz."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.arctan2(np.sqrt(x**2 + y**2), z), np.arctan2(y, x), np.sqrt(x**2 + y**2 + z**2)


def spherical_to_cartesian(theta: np.ndarray, phi: np.ndarray, r: np.ndarray) -> np.ndarray:
    """The inverse: theta, phi, r, each (...) -> xyz (..., 3)."""
    return np.stack(
        [r * np.sin(theta) * np.cos(phi), r * np.sin(theta) * np.sin(phi), r * np.cos(theta)], axis=-1
    )
