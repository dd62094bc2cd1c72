"""Where to take a thing from above: a bowl by its rim, anything else across its body, from geometry alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv

CANDIDATES = 16

# Of a bowl:
RADIUS = 0.045  # from the bowl's axis to the middle of its wall, meters
HEIGHT = 0.034  # of that point above the bowl's origin, along its axis
WALL_LEAN = 0.39  # radians by which the wall opens outwards

# Of anything else:
DEPTH = 0.035  # of the fingertips below its top, meters
OPENING = 0.066  # the widest that is taken; the fingers open to 0.08 m
SLAB = 0.012  # how far above and below the fingertips its width counts

# The gripper around the point between its fingertips, in meters along (finger direction, up): both open
# fingers from the tip upwards, and the hand they slide in.
_FINGERS = [(s * 0.045, z) for s in (-1, 1) for z in (-0.008, 0.02, 0.045)]
_HAND = [(s * 0.1, 0.07) for s in (-1, 0, 1)]
_GRIPPER = np.array(_FINGERS + _HAND)
_ROOM = np.array([0.014] * len(_FINGERS) + [0.03] * len(_HAND))  # needed around each of these points


@dataclass(frozen=True)
class Boxes:
    """N oriented boxes: center (N, 3) and half sizes (N, 3) in meters, rotation (N, 3, 3) to the world."""

    center: np.ndarray
    rotation: np.ndarray
    half: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(P,) meters from each of (P, 3) points to the nearest box; 0 inside."""
        local = np.einsum("nji,pnj->pni", self.rotation, points[:, None] - self.center)
        outside: np.ndarray = np.linalg.norm(np.maximum(np.abs(local) - self.half, 0), axis=-1)
        return np.asarray(outside.min(axis=1, initial=np.inf))

    def corners(self) -> np.ndarray:
        """(N, 8, 3) of each box."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        offsets = np.einsum("nij,nkj->nki", self.rotation, signs * self.half[:, None])
        return np.asarray(self.center[:, None] + offsets)

    def tops(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What each box covers seen from above: center (N, 2), half sizes (N, 2), height of its top (N,)."""
        half = np.einsum("nij,nj->ni", np.abs(self.rotation), self.half)
        return self.center[:, :2], half[:, :2], self.center[:, 2] + half[:, 2]


def geoms(env: LiberoEnv, names: Iterable[str]) -> np.ndarray:
    """(N,) the simulator's numbers of some geometries."""
    return np.array([env.model.geom(name).id for name in names], int)


def boxes(env: LiberoEnv, geoms: np.ndarray) -> Boxes:
    """The box around each of some of the simulator's geometries, where they are now."""
    rotation = env.data.geom_xmat[geoms].reshape(-1, 3, 3)
    center = env.data.geom_xpos[geoms] + np.einsum("nij,nj->ni", rotation, env.model.geom_aabb[geoms, :3])
    return Boxes(center, rotation, env.model.geom_aabb[geoms, 3:])


@dataclass(frozen=True)
class Grasp:
    """position: (3,) meters, between the fingertips. yaw: radians from the arm's initial orientation."""

    position: np.ndarray
    yaw: float


def rim_grasp(
    origin: np.ndarray, rotation: np.ndarray, obstacles: Boxes, gripper: np.ndarray, floor: float
) -> Grasp:
    """The grasp of a bowl's rim that needs the least turning of the hand and touches nothing else.

    origin (3,), rotation (3, 3): the bowl in the world; it may lie on its side.
    gripper: (3,) where the gripper is now; of two equal grasps the nearer wins, so that the choice is stable.
    floor: height in meters below which the fingertips may not go.
    """
    axis = rotation[:, 2]
    first = np.array([0, 1.0, 0]) - axis[1] * axis
    first /= np.linalg.norm(first)
    angle = np.arange(CANDIDATES) * 2 * np.pi / CANDIDATES
    outwards = np.cos(angle)[:, None] * first + np.sin(angle)[:, None] * np.cross(axis, first)
    position = origin + RADIUS * outwards + HEIGHT * axis
    normal = np.cos(WALL_LEAN) * outwards - np.sin(WALL_LEAN) * axis
    # The fingers are alike, so turning by half a circle changes nothing.
    yaw = (np.arctan2(-normal[:, 0], normal[:, 1]) + np.pi / 2) % np.pi - np.pi / 2
    crowded = _crowded(position, yaw, obstacles)
    sloping = 1 - np.linalg.norm(normal[:, :2], axis=1)
    too_low = np.maximum(floor - position[:, 2], 0)
    away = np.linalg.norm(position - gripper, axis=1)
    cost = np.abs(yaw) + 4 * crowded + 4 * sloping + 100 * too_low + 1.0 * away - 0.1 * outwards[:, 1]
    best = int(np.argmin(cost))
    return Grasp(position[best], float(yaw[best]))


def body_grasp(rotation: np.ndarray, body: Boxes, obstacles: Boxes, fingertip: float) -> Grasp:
    """The grasp across a thing's body that needs the least turning of the hand and touches nothing else.

    rotation (3, 3): the thing in the world; it may lie on its side. body: what it consists of.
    fingertip: meters that the fingers reach below the point between them.
    """
    corners = body.corners()
    bottom, top = corners[..., 2].min(), corners[..., 2].max()
    height = max(top - DEPTH, bottom + fingertip)
    low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
    held = corners[(low < height + SLAB) & (high > height - SLAB)].reshape(-1, 3)[:, :2]
    level = rotation[:, int(np.argmin(np.abs(rotation[2])))]
    turned = np.arctan2(level[1], level[0]) + np.arange(CANDIDATES) * np.pi / CANDIDATES
    yaw = (turned + np.pi / 2) % np.pi - np.pi / 2
    across = np.stack([-np.sin(yaw), np.cos(yaw)], axis=1)
    along = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    middle = [(held @ axes.T).min(axis=0) / 2 + (held @ axes.T).max(axis=0) / 2 for axes in (across, along)]
    width = np.ptp(held @ across.T, axis=0)
    position = np.c_[middle[0][:, None] * across + middle[1][:, None] * along, np.full(CANDIDATES, height)]
    too_wide = np.maximum(width - OPENING, 0)
    cost = np.abs(yaw) + 4 * _crowded(position, yaw, obstacles) + 400 * too_wide + 30 * width
    best = int(np.argmin(cost))
    return Grasp(position[best], float(yaw[best]))


def _crowded(position: np.ndarray, yaw: np.ndarray, obstacles: Boxes) -> np.ndarray:
    """(C,) how much of the room that the gripper needs at each of (C, 3) grasps is taken: 0 none, 1 all."""
    across = np.stack([-np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)], axis=1)
    points = position[:, None] + _GRIPPER[:, :1] * across[:, None] + _GRIPPER[:, 1:] * [0, 0, 1.0]
    distance = obstacles.distance(points.reshape(-1, 3)).reshape(points.shape[:2])
    return np.asarray(np.maximum(1 - distance / _ROOM, 0).max(axis=1))
