"""A scripted expert for LIBERO's pick-and-place tasks: a bowl by its rim, onto a plate.

The action is a function of the simulator's present state alone. Nothing counts phases: what to do next
follows from where the bowl, the gripper and the plate are, so the expert recovers from any disturbance, can
label states another policy reached (DAgger, Ross et al. 2011), and can be cloned by a policy without memory.
"""

from __future__ import annotations

import numpy as np

from spatialvla.errors import InputError
from spatialvla.simulation.libero.env import ACTION_UNITS, LiberoEnv
from spatialvla.simulation.libero.grasping import Boxes, rim_grasp

UNIT, TURN_UNIT = ACTION_UNITS
GAIN = 1.5
MAX_SPEED = 1.0  # action units; 0.3 m/s
MAX_TURN = 0.3  # action units

BOWL_RADIUS = 0.060
APPROACH_HEIGHT = 0.10  # above the grasp while still beside it
CARRY_HEIGHT = 0.06  # of the bowl's origin above the plate's while still beside it
CLEARANCE = 0.025
FINGERTIP = 0.012  # of the fingers below the point between them


class LiberoExpert:
    """The expert for one environment's task. Calling it gives the action for the environment's present state.

    Raises InputError if the task's goal is not "put one object on another".
    """

    def __init__(self, env: LiberoEnv) -> None:
        goals = env.simulator.parsed_problem["goal_state"]
        if len(goals) != 1 or goals[0][0] != "on" or goals[0][2] not in env.simulator.objects_dict:
            raise InputError(f"The expert can only put one object on another, not {goals}; change the task.")
        _, bowl, plate = goals[0]
        objects = env.simulator.objects_dict
        self._env = env
        self._bowl, self._plate = env.simulator.obj_body_id[bowl], env.simulator.obj_body_id[plate]
        self._bowl_geoms = _geoms(env, objects[bowl].contact_geoms)
        pads = env.simulator.robots[0].gripper.important_geoms
        self._fingers = [_geoms(env, pads["left_finger"]), _geoms(env, pads["right_finger"])]
        others = {**objects, **env.simulator.fixtures_dict}
        self._obstacles = np.concatenate(
            [_geoms(env, thing.contact_geoms) for name, thing in others.items() if name not in (bowl, plate)]
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
        """Whether both fingers touch the bowl."""
        contacts = self._env.data.contact
        pairs = np.stack([contacts.geom1, contacts.geom2], axis=1)
        pairs = pairs[np.isin(pairs, self._bowl_geoms).any(axis=1)]
        return all(np.isin(pairs, finger).any() for finger in self._fingers)

    def _fetch(self) -> tuple[np.ndarray, float, float]:
        """To the rim from above; closing over the last centimeters."""
        data = self._env.data
        here = self._env.gripper_position
        bowl, rotation = data.xpos[self._bowl], data.xmat[self._bowl].reshape(3, 3)
        grasp = rim_grasp(bowl, rotation, self._boxes(), here, self._floor)
        error = grasp.position - here
        turned_away = abs(grasp.yaw - self._yaw())
        beside = float(np.linalg.norm(error[:2]))
        height = grasp.position[2] + APPROACH_HEIGHT * _ramp(beside + 0.05 * turned_away, 0.01, 0.05)
        rise = height - here[2]
        sideways = error[:2] * _ramp(-rise, -0.06, -0.01)
        closing = beside < 0.02 and -error[2] < 0.015
        return np.r_[sideways, rise] * GAIN / UNIT, grasp.yaw, 0.0 if closing else 1.0

    def _carry(self) -> tuple[np.ndarray, float, float]:
        """Up, over to the plate and down onto it; opening just above it."""
        data = self._env.data
        bowl, plate = data.xpos[self._bowl], data.xpos[self._plate]
        error = plate[:2] - bowl[:2]
        beside = float(np.linalg.norm(error))
        height = plate[2] + CARRY_HEIGHT * _ramp(beside, 0.015, 0.06)
        if beside > 0.03:
            height = max(height, self._clear_height(bowl[:2]))
        rise = height - bowl[2]
        sideways = error * _ramp(-rise, -0.04, -0.01)
        release = beside < 0.02 and bowl[2] - plate[2] < 0.03
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

    def _clear_height(self, where: np.ndarray) -> float:
        """The height at which the bowl's bottom clears everything near a point of the table.

        Obstacles further away than the bowl's rim count less, by twice the distance, so that the path rises
        gently towards them.
        """
        center, half, top = self._boxes().tops()
        gap = np.linalg.norm(np.maximum(np.abs(where - center) - half, 0), axis=1)
        return float(np.max(top + CLEARANCE - 2 * np.maximum(gap - BOWL_RADIUS, 0)))

    def _boxes(self) -> Boxes:
        """Everything the hand and the bowl should not touch."""
        model, data, geoms = self._env.model, self._env.data, self._obstacles
        rotation = data.geom_xmat[geoms].reshape(-1, 3, 3)
        center = data.geom_xpos[geoms] + np.einsum("nij,nj->ni", rotation, model.geom_aabb[geoms, :3])
        return Boxes(center, rotation, model.geom_aabb[geoms, 3:])


def _geoms(env: LiberoEnv, names: list[str]) -> np.ndarray:
    return np.array([env.model.geom(name).id for name in names])


def _ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, straight between."""
    return float(np.clip((value - low) / (high - low), 0, 1))
