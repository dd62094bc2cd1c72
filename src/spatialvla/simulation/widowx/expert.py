"""A scripted expert for SimplerEnv's WidowX tasks: grasp a thing across its narrow side, and set it down.

It knows the simulator's state but acts as a policy does: in chunks of (T, 7) actions, Δx Δy Δz in meters,
Δroll Δpitch Δyaw in radians and the gripper, each relative to the controller's last target. Each chunk is one
motion, planned from the state in which it begins; a grasp that failed is tried again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spatialvla.geometry.rotations import euler, matrices
from spatialvla.simulation.widowx.env import WidowXEnv

OPEN, CLOSED = 1.0, 0.0
SPEED = 0.03  # meters a step: about the fastest hundredth of the motions in the bridge dataset
SLOW = 0.015
TURN = 0.15  # radians a step
SETTLE = 2  # steps until the arm has caught up with its target
CLOSING, OPENING = 3, 2
FINGERTIP = 0.016  # of the fingers below the tool's origin
CLEARANCE = 0.004  # of the fingertips above what the thing lies on
APPROACH = 0.08  # height above the grasp while still beside it
CARRY = 0.06  # height of the thing's bottom above the target's top while still beside it
DROP = 0.004  # height of the same at which the fingers open
# Faces that meet exactly parallel touch, in PhysX, at points that may all lie on one side, and what is held
# swings about them. Fingers that close a little askew touch at opposite ends, and turn the thing flush.
ASKEW = 0.07  # radians
_ANGLES = np.deg2rad(np.arange(-90, 90, 2))


class WidowXExpert:
    """The expert for one environment. Call it for the next chunk; `reset` at the start of each episode."""

    def __init__(self, env: WidowXEnv) -> None:
        self._env = env
        self.reset()

    def reset(self) -> None:
        """Starts a new episode, from the state in which the environment is now."""
        self._target = self._env.tool  # (4, 4) where the controller has been told to go
        self._chunks = self._motions()

    def __call__(self) -> np.ndarray:
        """(T, 7) actions for the next steps."""
        return next(self._chunks)

    def _motions(self) -> Iterator[np.ndarray]:
        held = False
        while not held:
            grasp = self._grasp()
            yield self._move(_raised(grasp, APPROACH), OPEN)
            yield self._move(grasp, OPEN, SLOW, SETTLE)
            height = self._env.source[2, 3]
            yield self._hold(CLOSED, CLOSING)
            yield self._move(_raised(grasp, APPROACH), CLOSED)
            held = self._env.source[2, 3] - height > APPROACH / 2
        yield self._move(self._above_target(CARRY), CLOSED, settle=SETTLE)
        yield self._move(self._above_target(DROP), CLOSED, SLOW, SETTLE)
        yield self._hold(OPEN, OPENING)
        yield self._move(_raised(self._target, APPROACH), OPEN)
        while True:
            yield self._hold(OPEN, 1)

    def _grasp(self) -> np.ndarray:
        """(4, 4) of the tool, pointing down, its fingers around the narrowest width of the thing.

        Of equal widths the one that needs the least turning wins.
        """
        corners = self._env.surface("source")
        now = np.arctan2(self._target[1, 1], self._target[0, 1])  # of the fingers' direction
        turns = (_ANGLES - now + np.pi / 2) % np.pi - np.pi / 2
        widths = np.ptp(corners[:, :2] @ np.stack([np.cos(_ANGLES), np.sin(_ANGLES)]), axis=0)
        angle = now + turns[np.argmin(widths + 0.005 * np.abs(turns))] + ASKEW
        across, along = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        middle = [
            (corners[:, :2] @ axis).max() / 2 + (corners[:, :2] @ axis).min() / 2 for axis in (across, along)
        ]
        pose = np.eye(4)
        pose[:3, :3] = np.stack([[0, 0, -1], [*across, 0], np.cross([0, 0, -1], [*across, 0])], axis=1)
        pose[:2, 3] = middle[0] * across + middle[1] * along
        pose[2, 3] = corners[:, 2].min() + CLEARANCE + FINGERTIP
        return pose

    def _above_target(self, height: float) -> np.ndarray:
        """(4, 4) of the tool that holds a thing over the middle of the target, its bottom this far above."""
        thing, goal = self._env.surface("source"), self._env.surface("target")
        pose = self._target.copy()
        pose[:3, 3] = self._env.tool[:3, 3]  # where the thing is held, the arm being behind its target
        pose[:2, 3] += self._env.target[:2, 3] - self._env.source[:2, 3]
        pose[2, 3] += goal[:, 2].max() + height - thing[:, 2].min()
        return pose

    def _move(self, goal: np.ndarray, gripper: float, speed: float = SPEED, settle: int = 0) -> np.ndarray:
        """(T, 7) straight to a pose, then `settle` steps of rest."""
        shift = goal[:3, 3] - self._target[:3, 3]
        axis_angle = _axis_angle(goal[:3, :3] @ self._target[:3, :3].T)
        steps = max(1, int(np.ceil(max(np.linalg.norm(shift) / speed, np.linalg.norm(axis_angle) / TURN))))
        turn = euler(matrices(axis_angle[None] / steps, "axis_angle"))[0]
        self._target = goal.copy()
        return np.concatenate(
            [np.tile([*shift / steps, *turn, gripper], (steps, 1)), self._hold(gripper, settle)]
        )

    def _hold(self, gripper: float, steps: int) -> np.ndarray:
        return np.tile([*np.zeros(6), gripper], (steps, 1))


def _raised(pose: np.ndarray, height: float) -> np.ndarray:
    raised = pose.copy()
    raised[2, 3] += height
    return raised


def _axis_angle(rotation: np.ndarray) -> np.ndarray:
    """(3, 3) of less than half a turn -> (3,) its axis times its angle in radians."""
    axis = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine, cosine = np.linalg.norm(axis) / 2, (np.trace(rotation) - 1) / 2
    return np.asarray(axis / 2 * np.arctan2(sine, cosine) / max(sine, 1e-12))
