"""Open and close drawers and doors by their handle."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import boxes, geoms_but
from spatialvla.simulation.libero.skills.hand import Hand
from spatialvla.simulation.libero.skills.joint import MovingPart
from spatialvla.simulation.libero.skills.skill import Goal, Motion

PULL_TILT = np.deg2rad(75)  # of the hand that pulls, from pointing down
UP = np.array([0, 0, 1.0])
PUSH_TILT = np.deg2rad(30)
PULL, PUSH = 0.03, 0.03  # meters ahead of the handle that the hand aims at: its speed
BEFORE = 0.12  # meters from the handle, at which the fingers that push are closed
AWAY = 0.08  # meters from the handle, at which the hand has let go
TILTED = 0.5  # radians from pointing down, above which the fingers may be around the handle


class Open:
    """Grasp the handle from the front and draw it out."""

    def __init__(self, env: LiberoEnv, hand: Hand, goal: Goal, part: MovingPart) -> None:
        self._env, self._hand, self._goal, self._part = env, hand, goal, part
        self._scene = geoms_but(env, ())

    def done(self) -> bool:
        """Whether it is open, and the hand has backed out from around the handle."""
        return self._goal.holds() and not self._is_around_handle()

    def motion(self) -> Motion:
        """Draws what is held, backs out of what is open, or reaches for the handle."""
        handle = np.array(self._env.data.geom_xpos[self._part.handle])
        way = self._part.opens_towards(handle)
        rotation = self._hand.facing(-way, PULL_TILT, self._part.bar())
        if self._goal.holds():
            return Motion(-AWAY * self._hand.rotation[:, 2], self._hand.rotation, 1.0)
        error = handle - self._hand.position
        if self._hand.touches(self._part.geoms):
            beside = error - (error @ way) * way
            return Motion(PULL * way + beside, rotation, 0.0)
        return self._hand.take(handle, rotation[:, 2], rotation, boxes(self._env, self._scene))

    def _is_around_handle(self) -> bool:
        error = self._env.data.geom_xpos[self._part.handle] - self._hand.position
        return bool(np.linalg.norm(error) < AWAY and self._hand.tilt > TILTED)


class Close:
    """Push the handle back with closed fingers."""

    def __init__(self, env: LiberoEnv, hand: Hand, goal: Goal, part: MovingPart) -> None:
        self._env, self._hand, self._goal, self._part = env, hand, goal, part
        self._scene = geoms_but(env, ())

    def done(self) -> bool:
        """Whether it is closed."""
        return self._goal.holds()

    def motion(self) -> Motion:
        """Behind the handle, and with it."""
        handle = np.array(self._env.data.geom_xpos[self._part.handle])
        way = -self._part.opens_towards(handle)
        rotation = self._hand.facing(way, PUSH_TILT, UP)
        reaching = self._hand.reach(handle + PUSH * way, way, rotation, boxes(self._env, self._scene))
        near = np.linalg.norm(handle - self._hand.position) < BEFORE
        return Motion(reaching.move, rotation, 0.0 if near else 1.0)
