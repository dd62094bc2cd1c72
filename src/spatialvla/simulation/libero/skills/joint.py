"""A part of a fixture that a joint moves: a drawer, a door or a knob."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import boxes, geoms


class MovingPart:
    """What a goal's fixture, or a fixture's region, moves with, in the simulator's present state.

    geoms: (N,) what it consists of.
    """

    def __init__(self, env: LiberoEnv, name: str) -> None:
        simulator, model = env.simulator, env.model
        owner = simulator.object_sites_dict.get(name) or simulator.get_object(name)
        self._env = env
        self._joint = model.joint(owner.joints[0]).id
        self._address = model.jnt_qposadr[self._joint]
        self._slides = model.jnt_type[self._joint] == _SLIDE
        self._body = model.jnt_bodyid[self._joint]
        fixture = simulator.get_object(getattr(owner, "parent_name", name))
        every = geoms(env, fixture.contact_geoms)
        self.geoms = every[model.geom_bodyid[every] == self._body]
        low, high = model.jnt_range[self._joint]
        self._sign = 1.0 if high > -low else -1.0
        self.handle = self._outermost()

    @property
    def openness(self) -> float:
        """How far the joint has moved from its closed end, in meters or radians."""
        return float(self._sign * self._env.data.qpos[self._address])

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) of the part in the world."""
        return np.array(self._env.data.xmat[self._body]).reshape(3, 3)

    def bar(self) -> np.ndarray:
        """(3,) along the handle."""
        box = boxes(self._env, np.array([self.handle]))
        return np.array(box.rotation[0][:, np.argmax(box.half[0])])

    def opens_towards(self, point: np.ndarray) -> np.ndarray:
        """(3,) which way a point of it moves as it opens: a unit vector."""
        axis = self._sign * self._env.data.xaxis[self._joint]
        if self._slides:
            return np.array(axis)
        way = np.cross(axis, point - self._env.data.xanchor[self._joint])
        return np.asarray(way / np.linalg.norm(way))

    def _outermost(self) -> int:
        """The geometry that sticks out furthest: from the front of a drawer, or from the axis of a door."""
        places = self._env.data.geom_xpos[self.geoms] - self._env.data.xanchor[self._joint]
        axis = self._sign * self._env.data.xaxis[self._joint]
        along = places @ axis
        out = along if self._slides else np.linalg.norm(places - along[:, None] * axis, axis=1)
        return int(self.geoms[np.argmax(out)])


_SLIDE = 2  # MuJoCo's mjJNT_SLIDE
