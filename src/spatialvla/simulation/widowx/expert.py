"""A scripted expert for SimplerEnv's WidowX tasks: grasp a thing across its narrow side, and set it down.

It knows the simulator's state but acts as a policy does: Δx Δy Δz in meters, Δroll Δpitch Δyaw in radians and the
gripper, each relative to the controller's last target. The action is a function of the simulator's present state
alone. Nothing counts phases, so the expert recovers from any disturbance, can label states that a policy reached
(DAgger, Ross et al. 2011), and can be cloned by a policy without memory.
"""

from __future__ import annotations

import numpy as np

from spatialvla.geometry.rotations import euler, matrices, notated
from spatialvla.simulation.widowx.env import WidowXEnv

OPEN, CLOSED = 1.0, 0.0
SPEED = 0.03  # meters a step: about the fastest hundredth of the motions in the bridge dataset
SLOW = 0.015  # within SLOW_BELOW above the goal
SLOW_BELOW = 0.04
TURN = 0.15  # radians a step
FINGERTIP = 0.016  # of the fingers below the tool's origin
CLEARANCE = 0.004  # of the fingertips above what the thing lies on
APPROACH = 0.08  # height above the grasp while still beside it, and of the empty hand in the end
CARRY = 0.06  # height of the thing's bottom above the target's top while still beside it
DROP = 0.004  # height of the same at which the fingers open
THERE = 0.005  # of the hand from where it was told to go, once it has arrived or something holds it up
SHUT = 0.0165  # of a finger from the middle, with nothing between them
# Faces that meet exactly parallel touch, in PhysX, at points that may all lie on one side, and what is held
# swings about them. Fingers that close a little askew touch at opposite ends, and turn the thing flush. What is long
# and round slips out of such fingers instead.
ASKEW = 0.07  # radians
SQUARE = 1.5  # most widest to narrowest width of what is taken askew
_ANGLES = np.deg2rad(np.arange(-90, 90, 2))


class WidowXExpert:
    """The expert for one environment. Calling it gives the action for the environment's present state."""

    def __init__(self, env: WidowXEnv) -> None:
        self._env = env

    def __call__(self) -> np.ndarray:
        """(7,) float32: translation in meters, roll, pitch and yaw in radians, gripper 0 closed or 1 open."""
        told = self._env.told
        if self._env.is_holding:
            goal, gripper = self._carry(told)
        elif self._env.succeeds:
            goal, gripper = self._leave(told), OPEN
        else:
            goal, gripper = self._fetch(told)
        return np.array([*_step(told, goal), gripper], np.float32)

    def _fetch(self, told: np.ndarray) -> tuple[np.ndarray, float]:
        """To the grasp from above; closing there. Fingers that have closed around nothing open again, higher."""
        goal = self._grasp(told)
        shift = goal[:3, 3] - told[:3, 3]
        beside = float(np.linalg.norm(shift[:2]) + 0.05 * np.linalg.norm(_rotation(told, goal)))
        missed = self._env.fingers.max() < SHUT
        height = goal[2, 3] + APPROACH * (1.0 if missed else _ramp(beside, 0.01, 0.03))
        rise = height - told[2, 3]
        goal[:2, 3] = told[:2, 3] + shift[:2] * _ramp(-rise, -0.06, -0.01)
        goal[2, 3] = height
        arrived = self._env.is_still or np.linalg.norm(self._env.tool[:3, 3] - goal[:3, 3]) < THERE
        return goal, CLOSED if arrived and not missed and beside < 0.005 and abs(rise) < THERE else OPEN

    def _carry(self, told: np.ndarray) -> tuple[np.ndarray, float]:
        """Up, over to the target and down; opening just above it."""
        thing, place = self._env.surface("source"), self._env.surface("target")
        lag = told[:3, 3] - self._env.tool[:3, 3]
        error = self._env.target[:2, 3] - self._env.source[:2, 3] - lag[:2]
        above = thing[:, 2].min() + lag[2] - place[:, 2].max()
        beside = float(np.linalg.norm(error))
        rise = DROP + CARRY * _ramp(beside, 0.01, 0.04) - above
        goal = told.copy()
        goal[:3, 3] += [*error * _ramp(-rise, -0.04, -0.005), rise]
        arrived = np.linalg.norm(lag) < THERE and beside < 0.01 and abs(rise) < 0.003
        return goal, OPEN if arrived else CLOSED

    def _leave(self, told: np.ndarray) -> np.ndarray:
        """Straight up from what has been set down, and rest there."""
        goal = told.copy()
        goal[2, 3] = max(told[2, 3], self._env.surface("source")[:, 2].max() + APPROACH)
        return goal

    def _grasp(self, told: np.ndarray) -> np.ndarray:
        """(4, 4) of the tool, pointing down, its fingers around the narrowest width of the thing.

        Of equal widths the one that needs the least turning wins.
        """
        corners = self._env.surface("source")
        widths = np.ptp(corners[:, :2] @ np.stack([np.cos(_ANGLES), np.sin(_ANGLES)]), axis=0)
        askew = ASKEW if widths.max() < SQUARE * widths.min() else 0.0
        now = np.arctan2(told[1, 1], told[0, 1]) - askew  # of the fingers' direction
        turns = (_ANGLES - now + np.pi / 2) % np.pi - np.pi / 2
        angle = now + turns[np.argmin(widths + 0.005 * np.abs(turns))] + askew
        across, along = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        middle = [
            (corners[:, :2] @ axis).max() / 2 + (corners[:, :2] @ axis).min() / 2 for axis in (across, along)
        ]
        pose = np.eye(4)
        pose[:3, :3] = np.stack([[0, 0, -1], [*across, 0], np.cross([0, 0, -1], [*across, 0])], axis=1)
        pose[:2, 3] = middle[0] * across + middle[1] * along
        pose[2, 3] = corners[:, 2].min() + CLEARANCE + FINGERTIP
        return pose


def _step(told: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """(6,) the next part of the straight way from one pose to another."""
    shift, turn = goal[:3, 3] - told[:3, 3], _rotation(told, goal)
    speed = SLOW if 0 < -shift[2] < SLOW_BELOW else SPEED
    share = 1 / max(1.0, float(np.linalg.norm(shift)) / speed, float(np.linalg.norm(turn)) / TURN)
    return np.concatenate([shift * share, euler(matrices(share * turn[None], "axis_angle"))[0]])


def _rotation(told: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """(3,) axis times angle in radians, about the base's axes."""
    return np.asarray(notated((goal[:3, :3] @ told[:3, :3].T)[None], "axis_angle")[0])


def _ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, straight between."""
    return float(np.clip((value - low) / (high - low), 0, 1))
