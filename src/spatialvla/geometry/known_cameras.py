"""Cameras whose intrinsics are published, or follow from how a simulator renders."""

from __future__ import annotations

import numpy as np

from spatialvla.geometry.camera import Camera


def _pinhole(fx: float, fy: float, cx: float, cy: float, height: int, width: int) -> Camera:
    return Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), height, width)


BRIDGE = _pinhole(623.588, 623.588, 319.501, 239.545, height=480, width=640)
"""Bridge's third-person camera, SpatialVLA's published `default`; SimplerEnv's WidowX has it too."""

SIMPLER_GOOGLE_ROBOT = _pinhole(425, 425, 320, 256, height=512, width=640)
"""The head camera of SimplerEnv's Google robot."""

_LIBERO_FOCAL = float(128 / np.tan(np.pi / 8))
LIBERO_AGENTVIEW = _pinhole(_LIBERO_FOCAL, _LIBERO_FOCAL, 128, 128, height=256, width=256)
"""LIBERO's third-person camera, whose vertical field of view is 45° in every scene."""
