"""Pick a thing up and put it where the goal wants it."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import boxes, geoms, geoms_but
from spatialvla.simulation.libero.skills.grasping import (
    OPENING,
    WALL_LEAN,
    Grasp,
    body_grasp,
    rim_grasp,
    wall_grasp,
)
from spatialvla.simulation.libero.skills.hand import DOWN, FINGERTIP, RADIUS, Hand, approach, ramp
from spatialvla.simulation.libero.skills.placing import Place
from spatialvla.simulation.libero.skills.skill import Goal, Motion

THING_RADIUS = 0.060  # of what is carried
NEAR = 0.03  # sideways, from where it is safe to go down among other things
APPROACH_HEIGHT = 0.10  # above the grasp while still beside it
TILT = 0.3  # radians from pointing down, above which the hand stays up until it is turned
STRAIGHT = 0.1  # radians from the yaw that a place asks for
CARRY_HEIGHT = 0.06  # of the thing's origin above its target while still beside it
RIM_CLEARANCE = 0.04  # of the thing's origin above its target's rim


class Carry:
    """The thing that a part of the goal names, to its place."""

    def __init__(self, env: LiberoEnv, hand: Hand, goal: Goal, place: Place) -> None:
        self._env, self._hand, self._goal, self._place = env, hand, goal, place
        thing = goal.subject
        self._thing = env.simulator.obj_body_id[thing]
        self._body = geoms(env, env.simulator.objects_dict[thing].contact_geoms)
        self._is_bowl = "bowl" in thing
        self._obstacles = geoms_but(env, (thing, *place.stands_on))

    def done(self) -> bool:
        """Whether the thing is in its place, and let go."""
        return self._goal.holds() and not self.is_holding()

    def motion(self) -> Motion:
        """With the thing to its place, or to the thing."""
        return self._bring() if self.is_holding() else self._fetch()

    def is_holding(self) -> bool:
        """Whether both fingers touch the thing."""
        return self._hand.touches(self._body)

    def _fetch(self) -> Motion:
        """To the grasp from above; closing over the last centimeters."""
        here = self._hand.position
        grasp = self._grasp(here)
        error = grasp.position - here
        turned_away = abs(grasp.yaw - self._hand.yaw) + 4 * max(self._hand.tilt - TILT, 0)
        beside = float(np.linalg.norm(error[:2]))
        furthest = np.inf
        if beside > NEAR:
            clear = boxes(self._env, self._obstacles).clear_height(here[:2], RADIUS) + FINGERTIP
            furthest = here[2] - clear
        move = approach(error, DOWN, APPROACH_HEIGHT, turned_away, furthest)
        closing = beside < 0.02 and -error[2] < 0.015
        return Motion(move, self._hand.upright(grasp.yaw), 0.0 if closing else 1.0)

    def _grasp(self, here: np.ndarray) -> Grasp:
        data = self._env.data
        origin, rotation = data.xpos[self._thing], data.xmat[self._thing].reshape(3, 3)
        obstacles = boxes(self._env, self._obstacles)
        if self._is_bowl:
            return rim_grasp(origin, rotation, obstacles, here, self._hand.floor)
        body = boxes(self._env, self._body)
        across = body_grasp(rotation, body, obstacles, FINGERTIP)
        by_wall = wall_grasp(body, obstacles, here) if across.width > OPENING else None
        return by_wall or across

    def _bring(self) -> Motion:
        """Up, over to the place and down; opening just above it."""
        thing, target = self._env.data.xpos[self._thing], self._place.target()
        error = target.center - thing[:2]
        beside = float(np.linalg.norm(error))
        rotation, turned_away = self._hand.upright(self._hand.yaw), 0.0
        if target.across is not None:
            turn = self._hand.turn_across(target.across)
            lean = WALL_LEAN * np.sign(self._hand.lean) if abs(self._hand.lean) > WALL_LEAN / 2 else 0.0
            rotation, turned_away = self._hand.leaning(self._hand.yaw + turn, lean), abs(turn)
        above = max(CARRY_HEIGHT, target.rim + RIM_CLEARANCE)
        height = target.height + above * ramp(beside + 0.1 * max(turned_away - STRAIGHT, 0), 0.015, 0.06)
        bottom = boxes(self._env, self._body).corners()[..., 2].min()
        if beside > NEAR:
            over = boxes(self._env, self._obstacles).clear_height(thing[:2], THING_RADIUS)
            height = max(height, over + thing[2] - bottom)
        rise = height - thing[2]
        sideways = error * ramp(-rise, -0.04, -0.01)
        # What has its origin high above its foot never comes as low as others do.
        stands = thing[2] - bottom > 0.03 and self._goal.relation == "on" and self._goal.holds()
        low = stands or thing[2] - target.height < 0.03
        release = low and beside < 0.02 and turned_away < 2 * STRAIGHT
        return Motion(np.r_[sideways, rise], rotation, 1.0 if release else 0.0)
