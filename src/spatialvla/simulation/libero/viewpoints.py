"""The cameras that see a demonstration beside the first one: drawn around the workspace, and on the wrist."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real

from spatialvla.geometry.extrinsics import mirror_extrinsics, pose_matrix
from spatialvla.geometry.rotations import matrices
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.recording.config import Views

WRIST_CAMERA = "robot0_eye_in_hand"
"""The simulator's name of the camera on the Panda's hand."""

_AZIMUTH = (-80.0, 80.0)
"""Degrees about the plumb line through the workspace's center, from the first camera."""

_ELEVATION = (25.0, 65.0)
"""Degrees above the horizon."""

_DISTANCE = (0.9, 2.0)
"""Of the first camera's distance from the workspace's center; drawn evenly in its logarithm."""

_AIM = np.array([0.15, 0.15, 0.05])
"""Meters: how far from the workspace's center a camera looks, at most, along each axis of the world."""

_ROLL = 5.0
"""Degrees, at most, by which the horizon is tilted."""


@dataclass(frozen=True)
class Viewpoint:
    """One more camera. name: of its features, such as random_0 or wrist.

    camera: the simulator's that draws it. pose: (4, 4) where that one stands meanwhile, as in
    `LiberoEnv.place_camera`; None where the simulator has it.
    """

    name: str
    camera: str
    pose: Float[np.ndarray, "4 4"] | None = None


def viewpoints(env: LiberoEnv, rng: np.random.Generator, views: Views) -> list[Viewpoint]:
    """The cameras that `views` names, those around the workspace drawn anew."""
    first = mirror_extrinsics(env.camera_pose)
    height = float(env.simulator.workspace_offset[2])
    return [
        Viewpoint(name, WRIST_CAMERA)
        if name == "wrist"
        else Viewpoint(name, env.camera, draw_pose(rng, first, height))
        for name in views.names
    ]


def draw_pose(
    rng: np.random.Generator, first: Real[np.ndarray, "4 4"], height: float
) -> Float[np.ndarray, "4 4"]:
    """A camera that looks at the workspace from another side: azimuth, elevation, distance, aim and roll are
    drawn from continuous ranges, never from a benchmark's list.

    first: (4, 4) camera -> world of the scene's own camera, in meters, which looks down at the workspace.
    height: of the workspace in the world, in meters. The workspace's center is where the first camera looks.
    """
    position, ahead = first[:3, 3], first[:3, 2]
    center = position + ahead * (height - position[2]) / ahead[2]
    away = position - center
    azimuth = np.arctan2(away[1], away[0]) + np.radians(rng.uniform(*_AZIMUTH))
    elevation = np.radians(rng.uniform(*_ELEVATION))
    distance = np.linalg.norm(away) * np.exp(rng.uniform(*np.log(_DISTANCE)))
    aim = center + rng.uniform(-_AIM, _AIM)
    level = np.cos(elevation)
    direction = np.array([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)])
    return _looking(aim + distance * direction, aim, np.radians(rng.uniform(-_ROLL, _ROLL)))


def _looking(position: np.ndarray, at: np.ndarray, roll: float) -> Float[np.ndarray, "4 4"]:
    """Camera (x right, y down, z forward) -> world, turned about its axis by `roll` radians."""
    forward = (at - position) / np.linalg.norm(at - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    upright = np.stack([right, np.cross(forward, right), forward], axis=1)
    (turn,) = matrices(np.array([[0.0, 0.0, roll]]), "axis_angle")
    return pose_matrix(position, upright @ turn)
