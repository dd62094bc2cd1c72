"""Open and close drawers and doors by their handle."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import boxes, geoms_but
from spatialvla.simulation.libero.skills.hand import Hand, turn_between
from spatialvla.simulation.libero.skills.joint import MovingPart
from spatialvla.simulation.libero.skills.skill import Goal, Motion

PULL_TILT = np.deg2rad(75)  # of the hand that pulls, from pointing down
PUSH_TILT = np.deg2rad(45)
PULL, PUSH = 0.03, 0.03  # meters ahead of the handle that the hand aims at: its speed
NEAR = 0.015  # meters from the grasp, at which the fingers close
AWAY = 0.08  # meters from the handle, at which the hand has let go
STRAIGHT = 0.2  # radians from the grasp's rotation, within which the fingers may close
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
        rotation = self._hand.facing(-way, PULL_TILT, self._bar())
        forward = rotation[:, 2]
        if self._goal.holds():
            return Motion(-AWAY * self._hand.rotation[:, 2], self._hand.rotation, 1.0)
        error = handle - self._hand.position
        if self._hand.touches(self._part.geoms):
            beside = error - (error @ way) * way
            return Motion(PULL * way + beside, rotation, 0.0)
        reaching = self._hand.reach(handle, forward, rotation, boxes(self._env, self._scene))
        straight = turn_between(self._hand.rotation, rotation) < STRAIGHT
        closing = straight and np.linalg.norm(error) < NEAR
        return Motion(reaching.move, rotation, 0.0 if closing else 1.0)

    def _is_around_handle(self) -> bool:
        error = self._env.data.geom_xpos[self._part.handle] - self._hand.position
        return bool(np.linalg.norm(error) < AWAY and self._hand.tilt > TILTED)

    def _bar(self) -> np.ndarray:
        """(3,) along the handle."""
        box = boxes(self._env, np.array([self._part.handle]))
        return np.array(box.rotation[0][:, np.argmax(box.half[0])])


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
        rotation = self._hand.facing(way, PUSH_TILT, np.array([0, 0, 1.0]))
        reaching = self._hand.reach(handle + PUSH * way, way, rotation, boxes(self._env, self._scene))
        return Motion(reaching.move, rotation, 0.0)
