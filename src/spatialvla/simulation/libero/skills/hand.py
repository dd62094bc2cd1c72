"""The arm's hand: where it is, what its fingers touch, and a motion in the units of LIBERO's controller."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spatialvla.simulation.libero.env import ACTION_UNITS, LiberoEnv
from spatialvla.simulation.libero.skills.boxes import Boxes, geoms
from spatialvla.simulation.libero.skills.skill import Motion

UNIT, TURN_UNIT = ACTION_UNITS
GAIN = 1.5
MAX_SPEED = 1.0  # action units; 0.3 m/s
MAX_TURN = 0.3  # action units

RADIUS = 0.060  # of the open fingers, meters
FINGERTIP = 0.012  # meters of the fingers below the point between them
STANDOFF = 0.08  # meters before what is reached for, while still beside it
NEAR, STRAIGHT = 0.015, 0.2  # meters and radians from a grasp, at which the fingers close
DOWN = np.array([0, 0, -1.0])
FAR = 0.05  # meters sideways from the line from there, at which the hand goes above everything else


class Hand:
    """The hand in one environment's present state."""

    def __init__(self, env: LiberoEnv) -> None:
        self._env = env
        pads = env.simulator.robots[0].gripper.important_geoms
        self._fingers = [geoms(env, pads["left_finger"]), geoms(env, pads["right_finger"])]
        self._upright = env.initial_rotation
        self.floor = env.simulator.workspace_offset[2] + FINGERTIP  # height of a table, as low as it may go

    @property
    def position(self) -> np.ndarray:
        """(3,) meters in the world: the point between the fingertips."""
        return self._env.gripper_position

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) in the world; the fingers slide along its x axis and point along z."""
        return self._env.gripper_rotation

    @property
    def yaw(self) -> float:
        """How far it is turned about the vertical from its initial orientation, in radians."""
        turn = self.rotation @ self._upright.T
        return float(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))

    @property
    def tilt(self) -> float:
        """The angle between the fingers and the vertical, in radians."""
        return float(np.arccos(np.clip(-self.rotation[2, 2], -1, 1)))

    @property
    def lean(self) -> float:
        """How far its upper end leans along the line in which the fingers slide, as in `leaning`, in radians."""
        return float(np.arcsin(np.clip(-self.rotation[:, 2] @ self._across(self.yaw), -1, 1)))

    def upright(self, yaw: float) -> np.ndarray:
        """(3, 3) pointing down with this yaw, in radians."""
        c, s = np.cos(yaw), np.sin(yaw)
        return np.asarray(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ self._upright)

    def leaning(self, yaw: float, lean: float) -> np.ndarray:
        """(3, 3) the same, with its upper end leaning along the line in which the fingers slide, in radians."""
        down, across = self.upright(yaw), self._across(yaw)
        forward = np.cos(lean) * down[:, 2] - np.sin(lean) * across
        return np.stack([np.cross(down[:, 1], forward), down[:, 1], forward], axis=1)

    def facing(self, way: np.ndarray, tilt: float, bar: np.ndarray) -> np.ndarray:
        """(3, 3) pointing this way (3,) over the table, tilted by so many radians from pointing down.

        The fingers slide across the bar (3,). Of the two such rotations it is the one nearer to the present and
        the initial one.
        """
        level = np.array([way[0], way[1], 0]) / np.hypot(way[0], way[1])
        forward = np.sin(tilt) * level + np.cos(tilt) * np.array([0, 0, -1.0])
        slide = np.cross(forward, bar)
        slide /= np.linalg.norm(slide)
        found = [np.stack([s * slide, np.cross(forward, s * slide), forward], axis=1) for s in (1.0, -1.0)]
        return min(found, key=lambda one: turn_between(self.rotation, one) + turn_between(self._upright, one))

    def turn_across(self, direction: np.ndarray) -> float:
        """How far to turn about the vertical until the fingers slide along a level direction (2,), in radians."""
        slide = self.rotation[:2, 0]
        turn = np.arctan2(direction[1], direction[0]) - np.arctan2(slide[1], slide[0])
        # The fingers are alike, so turning by half a circle changes nothing.
        return float((turn + np.pi / 2) % np.pi - np.pi / 2)

    def touches(self, what: np.ndarray) -> bool:
        """Whether both fingers touch some of these geometries."""
        contacts = self._env.data.contact
        pairs = np.stack([contacts.geom1, contacts.geom2], axis=1)
        pairs = pairs[np.isin(pairs, what).any(axis=1)]
        return all(np.isin(pairs, finger).any() for finger in self._fingers)

    def reach(self, target: np.ndarray, along: np.ndarray, rotation: np.ndarray, scene: Boxes) -> Motion:
        """To a point (3,), the last centimeters along a direction (3,), turned so (3, 3); with open fingers.

        scene: what is not to be touched on the way.
        """
        here = self.position
        ahead = float((target - here) @ along)
        on_line = target - min(max(ahead, 0), STANDOFF) * along
        if np.linalg.norm((on_line - here)[:2]) > FAR:
            standoff = target - STANDOFF * along
            clear = scene.clear_height(here[:2], RADIUS) + FINGERTIP
            return Motion(approach(standoff - here, DOWN, 0.0, furthest=here[2] - clear), rotation, 1.0)
        return Motion(
            approach(target - here, along, STANDOFF, turn_between(self.rotation, rotation)), rotation, 1.0
        )

    def take(self, target: np.ndarray, along: np.ndarray, rotation: np.ndarray, scene: Boxes) -> Motion:
        """As `reach`, closing the fingers at the end."""
        straight = turn_between(self.rotation, rotation) < STRAIGHT
        closing = straight and np.linalg.norm(target - self.position) < NEAR
        return replace(self.reach(target, along, rotation, scene), gripper=0.0 if closing else 1.0)

    def action(self, motion: Motion) -> np.ndarray:
        """(7,) float32: translation and rotation in the controller's units, gripper 0 closed or 1 open."""
        move = motion.move * GAIN / UNIT
        move = move * min(1.0, MAX_SPEED / max(float(np.linalg.norm(move)), 1e-9))
        return np.concatenate([move, self._turn_to(motion.rotation), [motion.gripper]]).astype(np.float32)

    def _across(self, yaw: float) -> np.ndarray:
        """(3,) the line in which the fingers slide at this yaw, from the world's y axis on."""
        return np.array([-np.sin(yaw), np.cos(yaw), 0])

    def _turn_to(self, rotation: np.ndarray) -> np.ndarray:
        """(3,) rotation towards this orientation; none while the error is small."""
        turn = rotation @ self.rotation.T
        vector = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        sine = float(np.linalg.norm(vector)) / 2
        angle = np.arctan2(sine, (np.trace(turn) - 1) / 2)
        size = min(max(angle - 0.03, 0) / TURN_UNIT, MAX_TURN)
        return np.asarray(vector / max(2 * sine, 1e-9) * size)


def approach(
    error: np.ndarray,
    along: np.ndarray,
    standoff: float,
    turned_away: float = 0.0,
    furthest: float = np.inf,
) -> np.ndarray:
    """(3,) meters to move so as to make up for an error (3,) along a direction (3,) in the end.

    What is beside that line first goes to it, so many meters before the end; likewise what is turned away, in radians.
    furthest: meters ahead that are free.
    """
    ahead = float(error @ along)
    beside = error - ahead * along
    advance = ahead - standoff * ramp(float(np.linalg.norm(beside)) + 0.05 * turned_away, 0.01, 0.05)
    advance = min(advance, furthest)
    return np.asarray(beside * ramp(advance, -0.06, -0.01) + advance * along)


def turn_between(one: np.ndarray, other: np.ndarray) -> float:
    """The angle between two rotations (3, 3), in radians."""
    return float(np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1)))


def ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, straight between."""
    return float(np.clip((value - low) / (high - low), 0, 1))
