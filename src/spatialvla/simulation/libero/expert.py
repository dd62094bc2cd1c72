"""A scripted expert for LIBERO's pick-and-place tasks: one thing onto another, onto a fixture or into a basket.

The action is a function of the simulator's present state alone. Nothing counts phases: what to do next
follows from where the thing, the gripper and the place are, so the expert recovers from any disturbance, can
label states another policy reached (DAgger, Ross et al. 2011), and can be cloned by a policy without memory.
"""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import ACTION_UNITS, LiberoEnv
from spatialvla.simulation.libero.grasping import Grasp, body_grasp, boxes, geoms, rim_grasp
from spatialvla.simulation.libero.placing import place_of

UNIT, TURN_UNIT = ACTION_UNITS
GAIN = 1.5
MAX_SPEED = 1.0  # action units; 0.3 m/s
MAX_TURN = 0.3  # action units

THING_RADIUS = 0.060  # of what is carried
HAND_RADIUS = 0.060  # of the open fingers
NEAR = 0.03  # sideways, from where it is safe to go down among other things
APPROACH_HEIGHT = 0.10  # above the grasp while still beside it
CARRY_HEIGHT = 0.06  # of the thing's origin above its target while still beside it
CLEARANCE = 0.025
RIM_CLEARANCE = 0.04  # of the thing's origin above its target's rim
FINGERTIP = 0.012  # of the fingers below the point between them


class LiberoExpert:
    """The expert for one environment's task. Calling it gives the action for the environment's present state.

    Raises InputError if the task's goal is not one thing on another, on a fixture or in a basket.
    """

    def __init__(self, env: LiberoEnv) -> None:
        thing, self._place = place_of(env, env.simulator.parsed_problem["goal_state"])
        self._env = env
        objects = env.simulator.objects_dict
        self._thing = env.simulator.obj_body_id[thing]
        self._body = geoms(env, objects[thing].contact_geoms)
        self._is_bowl = "bowl" in thing
        pads = env.simulator.robots[0].gripper.important_geoms
        self._fingers = [geoms(env, pads["left_finger"]), geoms(env, pads["right_finger"])]
        others = {**objects, **env.simulator.fixtures_dict}
        ignored = (thing, *self._place.stands_on)
        self._obstacles = np.concatenate(
            [geoms(env, other.contact_geoms) for name, other in others.items() if name not in ignored]
        ).astype(int)
        self._floor = env.simulator.workspace_offset[2] + FINGERTIP
        self._upright = env.initial_rotation

    def __call__(self) -> np.ndarray:
        """(7,) float32: translation and rotation in the controller's units, gripper 0 closed or 1 open."""
        move, yaw, gripper = self._carry() if self.is_holding() else self._fetch()
        speed = float(np.linalg.norm(move))
        move = move * min(1.0, MAX_SPEED / max(speed, 1e-9))
        return np.concatenate([move, self._turn_to(yaw), [gripper]]).astype(np.float32)

    def is_holding(self) -> bool:
        """Whether both fingers touch the thing."""
        contacts = self._env.data.contact
        pairs = np.stack([contacts.geom1, contacts.geom2], axis=1)
        pairs = pairs[np.isin(pairs, self._body).any(axis=1)]
        return all(np.isin(pairs, finger).any() for finger in self._fingers)

    def _fetch(self) -> tuple[np.ndarray, float, float]:
        """To the grasp from above; closing over the last centimeters."""
        here = self._env.gripper_position
        grasp = self._grasp(here)
        error = grasp.position - here
        turned_away = abs(grasp.yaw - self._yaw())
        beside = float(np.linalg.norm(error[:2]))
        height = grasp.position[2] + APPROACH_HEIGHT * _ramp(beside + 0.05 * turned_away, 0.01, 0.05)
        if beside > NEAR:
            height = max(height, self._clear_height(here[:2], HAND_RADIUS) + FINGERTIP)
        rise = height - here[2]
        sideways = error[:2] * _ramp(-rise, -0.06, -0.01)
        closing = beside < 0.02 and -error[2] < 0.015
        return np.r_[sideways, rise] * GAIN / UNIT, grasp.yaw, 0.0 if closing else 1.0

    def _grasp(self, here: np.ndarray) -> Grasp:
        data = self._env.data
        origin, rotation = data.xpos[self._thing], data.xmat[self._thing].reshape(3, 3)
        obstacles = boxes(self._env, self._obstacles)
        if self._is_bowl:
            return rim_grasp(origin, rotation, obstacles, here, self._floor)
        return body_grasp(rotation, boxes(self._env, self._body), obstacles, FINGERTIP)

    def _carry(self) -> tuple[np.ndarray, float, float]:
        """Up, over to the place and down; opening just above it."""
        thing, target = self._env.data.xpos[self._thing], self._place.target()
        error = target.center - thing[:2]
        beside = float(np.linalg.norm(error))
        above = max(CARRY_HEIGHT, target.rim + RIM_CLEARANCE)
        height = target.height + above * _ramp(beside, 0.015, 0.06)
        if beside > NEAR:
            bottom = boxes(self._env, self._body).corners()[..., 2].min()
            height = max(height, self._clear_height(thing[:2], THING_RADIUS) + thing[2] - bottom)
        rise = height - thing[2]
        sideways = error * _ramp(-rise, -0.04, -0.01)
        release = beside < 0.02 and thing[2] - target.height < 0.03
        return np.r_[sideways, rise] * GAIN / UNIT, self._yaw(), 1.0 if release else 0.0

    def _yaw(self) -> float:
        """How far the hand is turned about the vertical from its initial orientation, in radians."""
        turn = self._env.gripper_rotation @ self._upright.T
        return float(np.arctan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))

    def _turn_to(self, yaw: float) -> np.ndarray:
        """(3,) rotation towards pointing down with this yaw; none while the error is small."""
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ self._upright @ self._env.gripper_rotation.T
        vector = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        sine = float(np.linalg.norm(vector)) / 2
        angle = np.arctan2(sine, (np.trace(turn) - 1) / 2)
        size = min(max(angle - 0.03, 0) / TURN_UNIT, MAX_TURN)
        return np.asarray(vector / max(2 * sine, 1e-9) * size)

    def _clear_height(self, where: np.ndarray, radius: float) -> float:
        """The height at which what is as wide as `radius` clears everything near a point of the table.

        Obstacles further away than that count less, by twice the distance, so that the path rises gently
        towards them.
        """
        center, half, top = boxes(self._env, self._obstacles).tops()
        gap = np.linalg.norm(np.maximum(np.abs(where - center) - half, 0), axis=1)
        return float(np.max(top + CLEARANCE - 2 * np.maximum(gap - radius, 0)))


def _ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, straight between."""
    return float(np.clip((value - low) / (high - low), 0, 1))
