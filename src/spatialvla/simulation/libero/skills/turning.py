"""Turn a knob on or off."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import boxes, geoms_but
from spatialvla.simulation.libero.skills.grasping import body_grasp
from spatialvla.simulation.libero.skills.hand import FINGERTIP, Hand
from spatialvla.simulation.libero.skills.joint import MovingPart
from spatialvla.simulation.libero.skills.skill import Goal, Motion

DOWN = np.array([0, 0, -1.0])
LEAVE = 0.08  # meters upwards after it is let go
TURN = 0.3  # radians ahead of the knob that the hand aims at: its speed
ABOVE = 0.008  # meters above where anything else would be grasped: the knob's foot is in the way


class Turn:
    """Grasp the knob's lever from above, and turn the hand."""

    def __init__(self, env: LiberoEnv, hand: Hand, goal: Goal, part: MovingPart) -> None:
        self._env, self._hand, self._goal, self._part = env, hand, goal, part
        self._way = 1.0 if goal.relation == "turnon" else -1.0
        everything = geoms_but(env, ())
        self._scene = everything[~np.isin(everything, part.geoms)]

    def done(self) -> bool:
        """Whether it is turned, and let go."""
        return self._goal.holds() and not self._hand.touches(self._part.geoms)

    def motion(self) -> Motion:
        """Turns what is held, lets go of what is turned, or reaches for the lever."""
        hand, scene = self._hand, boxes(self._env, self._scene)
        grasp = body_grasp(self._part.rotation, boxes(self._env, self._part.geoms), scene, FINGERTIP)
        lever = grasp.position + np.array([0, 0, ABOVE])
        if self._goal.holds():
            return Motion(-LEAVE * DOWN, hand.upright(hand.yaw), 1.0)
        if hand.touches(self._part.geoms):
            return Motion(lever - hand.position, hand.upright(hand.yaw + self._way * TURN), 0.0)
        return hand.take(lever, DOWN, hand.upright(grasp.yaw), scene)
