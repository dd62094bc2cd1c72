"""Push a flat thing over the table."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import boxes, geoms, geoms_but
from spatialvla.simulation.libero.skills.hand import FINGERTIP, Hand
from spatialvla.simulation.libero.skills.placing import Place
from spatialvla.simulation.libero.skills.skill import Goal, Motion

TILT = np.deg2rad(35)  # of the hand from pointing down: it leans over what it pushes
BEHIND = 0.012  # meters from the thing's edge to the fingertips before they push
LOW = 0.02  # meters above where they push, below which they are behind the thing
WITHIN = 0.03  # meters to either side
SPEED = 0.02  # meters ahead that the hand aims at


class Push:
    """The thing that a part of the goal names, with both fingers from behind, to its place on the table."""

    def __init__(self, env: LiberoEnv, hand: Hand, goal: Goal, place: Place) -> None:
        self._env, self._hand, self._goal, self._place = env, hand, goal, place
        self._thing = env.simulator.obj_body_id[goal.subject]
        self._geoms = geoms(env, env.simulator.objects_dict[goal.subject].contact_geoms)
        self._scene = geoms_but(env, (goal.subject,))

    def done(self) -> bool:
        """Whether the thing is in its place."""
        return self._goal.holds()

    def motion(self) -> Motion:
        """Behind the thing, and on with it."""
        hand, center = self._hand, self._env.data.xpos[self._thing][:2]
        error = self._place.target().center - center
        way = np.r_[error, 0] / max(float(np.linalg.norm(error)), 1e-9)
        corners = boxes(self._env, self._geoms).corners().reshape(-1, 3)
        back = float((corners @ way).min()) - BEHIND - center @ way[:2]
        start = np.r_[center + back * way[:2], corners[:, 2].min() + FINGERTIP]
        rotation = hand.facing(-way, TILT, np.array([0, 0, 1.0]))
        ahead = float((hand.position - start) @ way)
        beside = start - hand.position + ahead * way
        if abs(ahead) < WITHIN and np.linalg.norm(beside[:2]) < WITHIN and -beside[2] < LOW:
            return Motion(SPEED * way + beside, rotation, 1.0)
        return hand.reach(start, rotation[:, 2], rotation, boxes(self._env, self._scene))
