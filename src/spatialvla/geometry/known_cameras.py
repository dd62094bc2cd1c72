"""Cameras whose calibration is published, or follows from how a simulator renders."""

from __future__ import annotations

import numpy as np

from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import pose_matrix
from spatialvla.geometry.rotations import matrices


def _pinhole(fx: float, fy: float, cx: float, cy: float, height: int, width: int) -> Camera:
    return Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), height, width)


BRIDGE = _pinhole(623.588, 623.588, 319.501, 239.545, height=480, width=640)
"""Bridge's third-person camera, SpatialVLA's published `default`; SimplerEnv's WidowX has it too."""

_BRIDGE_FORWARD_LEFT_UP = matrices(
    np.array([[-0.09263245, 0.35892478, 0.23209205, 0.8992917]]), "quaternion_xyzw"
)[0]
BRIDGE_POSE = pose_matrix(
    np.array([0.0, -0.16, 0.36]),
    _BRIDGE_FORWARD_LEFT_UP @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
)
"""Extrinsics of that camera as SimplerEnv places it over a table (ManiSkill's `WidowX250SBridgeDatasetFlatTable`, to
the base's link). It was matched to the pictures of one rig, and rigs differ: at the sink it is placed 6 cm away."""

SIMPLER_GOOGLE_ROBOT = _pinhole(425, 425, 320, 256, height=512, width=640)
"""The head camera of SimplerEnv's Google robot."""

_LIBERO_FOCAL = float(128 / np.tan(np.pi / 8))
LIBERO_AGENTVIEW = _pinhole(_LIBERO_FOCAL, _LIBERO_FOCAL, 128, 128, height=256, width=256)
"""LIBERO's third-person camera, whose vertical field of view is 45° in every scene."""

_LIBERO_WRIST_FOCAL = float(128 / np.tan(np.radians(75) / 2))
LIBERO_WRIST = CalibratedCamera(
    _pinhole(_LIBERO_WRIST_FOCAL, _LIBERO_WRIST_FOCAL, 128, 128, height=256, width=256),
    hand_eye=pose_matrix(np.array([0.0, 0.05, -0.097]), np.diag([-1.0, -1.0, 1.0])),
    mirrored=True,
)
"""LIBERO's wrist camera (`robot0_eye_in_hand`) on its Panda; the gripper's frame is that of its reported pose."""
