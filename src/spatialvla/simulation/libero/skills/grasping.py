"""Where to take a thing from above: a bowl by its rim, anything else across its body, from geometry alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialvla.simulation.libero.skills.boxes import Boxes

CANDIDATES = 16

# Of a bowl:
RADIUS = 0.045  # from the bowl's axis to the middle of its wall, meters
HEIGHT = 0.034  # of that point above the bowl's origin, along its axis
WALL_LEAN = 0.39  # radians by which the wall opens outwards

# Of anything else:
DEPTH = 0.035  # of the fingertips below its top, meters
OPENING = 0.066  # the widest that is taken; the fingers open to 0.08 m
SLAB = 0.012  # how far above and below the fingertips its width counts
WALL = 0.012  # half the thickness of the thickest wall
BELOW = 0.02  # of a wall's top below the thing's: a pot's handle
WALL_DEPTH = 0.025  # of the fingertips below the wall's top

# The gripper around the point between its fingertips, in meters along (finger direction, up): both open
# fingers from the tip upwards, and the hand they slide in.
_FINGERS = [(s * 0.045, z) for s in (-1, 1) for z in (-0.008, 0.02, 0.045)]
_HAND = [(s * 0.1, 0.07) for s in (-1, 0, 1)]
_GRIPPER = np.array(_FINGERS + _HAND)
_ROOM = np.array([0.014] * len(_FINGERS) + [0.03] * len(_HAND))  # needed around each of these points
_ARM = np.array([(s * 0.09, z) for s in (-1, 0, 1) for z in (0.12, 0.17)])  # what else comes down from above


@dataclass(frozen=True)
class Grasp:
    """position: (3,) meters, between the fingertips. yaw: radians from the arm's initial orientation.

    lean: radians by which the hand then leans along the fingers' line. width: meters between the fingers.
    """

    position: np.ndarray
    yaw: float
    lean: float = 0.0
    width: float = 0.0


def rim_grasp(
    origin: np.ndarray,
    rotation: np.ndarray,
    obstacles: Boxes,
    gripper: np.ndarray,
    floor: float,
    leaning: bool = False,
) -> Grasp:
    """The grasp of a bowl's rim that needs the least turning of the hand and touches nothing else.

    origin (3,), rotation (3, 3): the bowl in the world; it may lie on its side.
    gripper: (3,) where the gripper is now; of two equal grasps the nearer wins, so that the choice is stable.
    floor: height in meters below which the fingertips may not go.
    leaning: the hand leans outwards as the wall does, away from what stands beyond the bowl.
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
    outside = np.sign(np.cos(yaw) * normal[:, 1] - np.sin(yaw) * normal[:, 0])
    lean = outside * WALL_LEAN if leaning else np.zeros(CANDIDATES)
    crowded = _crowded(position, yaw, obstacles, lean)
    sloping = 1 - np.linalg.norm(normal[:, :2], axis=1)
    too_low = np.maximum(floor - position[:, 2], 0)
    away = np.linalg.norm(position - gripper, axis=1)
    cost = np.abs(yaw) + 4 * crowded + 4 * sloping + 100 * too_low + 1.0 * away - 0.1 * outwards[:, 1]
    best = int(np.argmin(cost))
    return Grasp(position[best], float(yaw[best]), float(lean[best]))


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
    return Grasp(position[best], float(yaw[best]), width=float(width[best]))


def wall_grasp(body: Boxes, obstacles: Boxes, gripper: np.ndarray) -> Grasp | None:
    """The grasp of an upright wall or handle that needs the least turning of the hand and touches nothing else.

    None where the thing has none that is thin, free and about as high as it.
    """
    corners = body.corners()
    thin = body.rotation[np.arange(len(body.half)), :, np.argmin(body.half, axis=1)]
    tops = corners[..., 2].max(axis=1)
    fits = (body.half.min(axis=1) < WALL) & (np.abs(thin[:, 2]) < 0.5) & (tops > tops.max() - BELOW)
    if not fits.any():
        return None
    normal = thin[fits]
    position = np.c_[body.center[fits, :2], tops[fits] - WALL_DEPTH]
    yaw = (np.arctan2(-normal[:, 0], normal[:, 1]) + np.pi / 2) % np.pi - np.pi / 2
    everything = Boxes(*(np.concatenate(pair) for pair in zip(_parts(body), _parts(obstacles), strict=True)))
    away = np.linalg.norm(position - gripper, axis=1)
    cost = np.abs(yaw) + 4 * _crowded(position, yaw, everything) + away
    best = int(np.argmin(cost))
    return Grasp(position[best], float(yaw[best]))


def _parts(boxes: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return boxes.center, boxes.rotation, boxes.half


def _crowded(
    position: np.ndarray, yaw: np.ndarray, obstacles: Boxes, lean: np.ndarray | None = None
) -> np.ndarray:
    """(C,) how much of the room that the gripper needs at each of (C, 3) grasps is taken: 0 none, 1 all.

    lean: (C,) radians. A hand that leans has to have room for what follows it, too.
    """
    gripper, room = _GRIPPER, _ROOM
    across = np.stack([-np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)], axis=1)
    up = np.tile([0, 0, 1.0], (len(yaw), 1))
    if lean is not None and lean.any():
        c, s = np.cos(lean)[:, None], np.sin(lean)[:, None]
        across, up = c * across - s * up, s * across + c * up
        gripper, room = np.r_[_GRIPPER, _ARM], np.r_[_ROOM, [0.03] * len(_ARM)]
    points = position[:, None] + gripper[:, :1] * across[:, None] + gripper[:, 1:] * up[:, None]
    distance = obstacles.distance(points.reshape(-1, 3)).reshape(points.shape[:2])
    return np.asarray(np.maximum(1 - distance / room, 0).max(axis=1))
