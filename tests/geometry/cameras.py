"""Cameras around a robot, for tests."""

import numpy as np

from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import pose_matrix

CAMERA = Camera(np.array([[600.0, 0, 330], [0, 610, 235], [0, 0, 1]]), 480, 640)


def looking_at(position, target, roll=0.0):
    """Extrinsics of an upright camera at `position` that looks at `target`, then rolled by radians."""
    forward = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    right = np.cross(forward, [0, 0, 1]) / np.linalg.norm(np.cross(forward, [0, 0, 1]))
    upright = np.stack([right, np.cross(forward, right), forward], axis=1)
    c, s = np.cos(roll), np.sin(roll)
    return pose_matrix(np.asarray(position, float), upright @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))


def random_camera(rng):
    """Extrinsics of a camera that stands somewhere around a table and looks about there."""
    azimuth, elevation, distance = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 1.2), rng.uniform(0.5, 2)
    target = np.array([0.5, 0, 0.1]) + rng.normal(0, 0.1, 3)
    way = np.array(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
    )
    return looking_at(target + distance * way, target, rng.uniform(-0.1, 0.1))


def random_gripper_poses(rng, count):
    """(count, 4, 4): above a table, pointing down and turned by up to about 40 degrees."""
    turns = np.array([rotation(rng.normal(0, 0.35, 3)) @ np.diag([1.0, -1, -1]) for _ in range(count)])
    return pose_matrix(rng.uniform([0.3, -0.3, 0.1], [0.7, 0.3, 0.5], (count, 3)), turns)


def rotation(vector):
    """Of a rotation vector, by Rodrigues' formula."""
    angle = np.linalg.norm(vector)
    x, y, z = np.asarray(vector) / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
