"""Open a drawer, if need be, and put a thing in."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import boxes
from spatialvla.simulation.libero.skills.carry import Carry
from spatialvla.simulation.libero.skills.grasping import rim_grasp
from spatialvla.simulation.libero.skills.hand import Hand
from spatialvla.simulation.libero.skills.opening import Open
from spatialvla.simulation.libero.skills.placing import InDrawer
from spatialvla.simulation.libero.skills.skill import Goal, Motion

ROOM = 0.1  # meters that a drawer has to be open while something is on its way into it
OVER = 0.005  # meters over the drawer's sides, for errors of boxes
AROUND = 0.01  # meters around a thing that have to be free above it before it is lifted
HAND = 0.1  # meters around a bowl that have to be free for a hand that comes from above
OUT = 0.05  # meters ahead that it is drawn out from under the drawer: its speed


class CarryInto(Carry):
    """The thing that a part of the goal names, into a drawer that may hang over it once it is open."""

    def __init__(self, env: LiberoEnv, hand: Hand, goal: Goal, place: InDrawer) -> None:
        super().__init__(env, hand, goal, place)
        self._part = place.part
        self._opening = Open(env, hand, Goal(env, "open", goal.place), place.part)

    def done(self) -> bool:
        """Whether the thing is in and let go, and does not stick out: it would keep the drawer from closing."""
        target = self._place.target()
        top = boxes(self._env, self._body).corners()[..., 2].max()
        return super().done() and bool(top < target.height + target.rim + OVER)

    def motion(self) -> Motion:
        """Opens as long as nothing is held, or the drawer has slid back."""
        holding = self.is_holding()
        is_open = self._part.openness > ROOM if holding else self._opening.done()
        if not is_open:
            return self._opening.motion()
        if holding and self._is_below_part(AROUND):
            way = self._part.opens_towards(self._hand.position)
            return Motion(OUT * way, self._hand.rotation, 0.0)
        return super().motion()

    def _fetch(self) -> Motion:
        """As any thing; a bowl under the drawer with the hand leaning, so that it does not come down on it."""
        if not self._is_bowl or not self._is_below_part(HAND):
            return super()._fetch()
        hand, data, obstacles = self._hand, self._env.data, boxes(self._env, self._obstacles)
        rotation = data.xmat[self._thing].reshape(3, 3)
        grasp = rim_grasp(data.xpos[self._thing], rotation, obstacles, hand.position, hand.floor, True)
        turned = hand.leaning(grasp.yaw, grasp.lean)
        return hand.take(grasp.position, turned[:, 2], turned, obstacles)

    def _is_below_part(self, around: float) -> bool:
        """Whether some of the drawer hangs over the thing, or over so many meters around it."""
        corners, part = boxes(self._env, self._body).corners(), boxes(self._env, self._part.geoms)
        low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
        center, half, _ = part.tops()
        gap = np.linalg.norm(np.maximum(np.abs((low + high)[:2] / 2 - center) - half, 0), axis=1)
        above = part.corners()[..., 2].min(axis=1) > high[2]
        return bool((above & (gap < (high - low)[:2].max() / 2 + around)).any())
