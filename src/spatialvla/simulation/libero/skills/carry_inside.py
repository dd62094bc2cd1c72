"""Carry a cup by its handle through the open front of a microwave."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import Boxes, boxes, geoms, geoms_but
from spatialvla.simulation.libero.skills.hand import Hand, approach
from spatialvla.simulation.libero.skills.skill import Goal, Motion

TILT = np.deg2rad(50)  # of the hand from pointing down, so that it stays in front
HANDLE = 0.02  # meters below the top of the handle that it is held
ARRIVED = 0.015  # meters before its place, at which it may be put down
ENTRY = 0.06  # meters from the region's front to the middle of what is in it
OUTSIDE = 0.16  # meters back from there, at which a cup is in front of the microwave
LIFT = 0.02  # meters above the microwave's floor on the way in
LEAVE = 0.1  # meters that the hand backs out


class CarryInside:
    """The cup that a part of the goal names, into a fixture's region that is open towards the front."""

    def __init__(self, env: LiberoEnv, hand: Hand, goal: Goal) -> None:
        self._env, self._hand, self._goal = env, hand, goal
        self._thing = env.simulator.obj_body_id[goal.subject]
        self._body = geoms(env, env.simulator.objects_dict[goal.subject].contact_geoms)
        self._scene = geoms_but(env, (goal.subject,))
        region = env.simulator.object_sites_dict[goal.place]
        self._site, self._half = env.data.site(goal.place), region.size
        self._fixture = geoms(env, env.simulator.get_object(region.parent_name).contact_geoms)

    def done(self) -> bool:
        """Whether the cup is inside, and the hand is off its handle."""
        away = np.linalg.norm(self._handle() - self._hand.position)
        return self._goal.holds() and not self._hand.touches(self._body) and bool(away > LEAVE / 2)

    def motion(self) -> Motion:
        """With the cup inside, out again, or to its handle."""
        hand, inwards = self._hand, self._site.xmat.reshape(3, 3)[:, 1]
        rotation = hand.facing(inwards, TILT, np.array([0, 0, 1.0]))
        place, thing = self._place(inwards), self._env.data.xpos[self._thing]
        inside = self._goal.holds() and (place - thing) @ inwards < ARRIVED
        if hand.touches(self._body):
            if inside:
                return Motion(np.array([0, 0, place[2] - LIFT - thing[2]]), rotation, 1.0)
            return Motion(approach(place - thing, inwards, OUTSIDE), rotation, 0.0)
        if inside:
            return Motion(-LEAVE * inwards, rotation, 1.0)
        return hand.take(self._handle(), rotation[:, 2], rotation, boxes(self._env, self._scene))

    def _handle(self) -> np.ndarray:
        """(3,) where its handle is held: the part that sticks out furthest to the side."""
        body = boxes(self._env, self._body)
        middle = np.median(body.center, axis=0)
        out = int(np.argmax(np.linalg.norm((body.center - middle)[:, :2], axis=1)))
        return np.array([*body.center[out, :2], body.corners()[out, :, 2].max() - HANDLE])

    def _place(self, inwards: np.ndarray) -> np.ndarray:
        """(3,) where the cup's origin goes: above the middle of the floor, just inside."""
        floor = self._floor()
        front = self._site.xpos - self._half[1] * inwards
        middle = floor.center[0] + ((front - floor.center[0]) @ inwards + ENTRY) * inwards
        return np.array([*middle[:2], floor.corners()[..., 2].max() + LIFT])

    def _floor(self) -> Boxes:
        """The one box of the fixture that is widest below the region."""
        fixture = boxes(self._env, self._fixture)
        _, half, top = fixture.tops()
        area = np.where(top < self._site.xpos[2], half[:, 0] * half[:, 1], 0)
        widest = [int(np.argmax(area))]
        return Boxes(fixture.center[widest], fixture.rotation[widest], fixture.half[widest])
