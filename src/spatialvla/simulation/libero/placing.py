"""Where to put the thing that a task's goal names: onto another thing, onto a surface, or into a basket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spatialvla.errors import InputError
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.grasping import boxes, geoms


@dataclass(frozen=True)
class Target:
    """Where the held thing's origin has to be when it is let go.

    center: (2,) meters. height: meters. rim: meters above `height` that have to be cleared on the way there.
    """

    center: np.ndarray
    height: float
    rim: float = 0.0


class Place(Protocol):
    """A goal's place."""

    @property
    def stands_on(self) -> tuple[str, ...]:
        """The objects that the thing may touch on its way."""

    def target(self) -> Target:
        """In the simulator's present state."""


class OnThing:
    """On top of another thing, origin over origin."""

    def __init__(self, env: LiberoEnv, goal: str) -> None:
        self.stands_on: tuple[str, ...] = (goal,)
        self._env = env
        self._body = env.simulator.obj_body_id[goal]
        self._geoms = geoms(env, env.simulator.objects_dict[goal].contact_geoms)

    def target(self) -> Target:
        x, y, z = self._env.data.xpos[self._body]
        rim = boxes(self._env, self._geoms).corners()[..., 2].max()
        return Target(np.array([x, y]), float(z), float(rim - z))


class InRegion:
    """Into a region that is open above, as that of a basket; the thing may fall from the region's top."""

    stands_on: tuple[str, ...] = ()

    def __init__(self, env: LiberoEnv, goal: str) -> None:
        self._site = env.data.site(goal)
        self._half = env.simulator.object_sites_dict[goal].size

    def target(self) -> Target:
        top = self._site.xpos + np.abs(self._site.xmat.reshape(3, 3)) @ self._half
        return Target(np.array(self._site.xpos[:2]), float(top[2]))


class OnRegion:
    """Onto a region of something that stands fast, such as a stove's or a cabinet's top."""

    stands_on: tuple[str, ...] = ()

    def __init__(self, env: LiberoEnv, goal: str) -> None:
        self._site = env.data.site(goal)
        self._half = env.simulator.object_sites_dict[goal].size

    def target(self) -> Target:
        return Target(np.array(self._site.xpos[:2]), float(self._site.xpos[2] + self._half[2]))


def place_of(env: LiberoEnv, goals: list[list[str]]) -> tuple[str, Place]:
    """The thing that a task is about, and where its goal wants it.

    Raises InputError if the goal is anything but one thing on another, on a fixture or in a basket.
    """
    if len(goals) == 1 and len(goals[0]) == 3:
        relation, thing, goal = goals[0]
        if relation == "on" and goal in env.simulator.objects_dict:
            return thing, OnThing(env, goal)
        region = env.simulator.object_sites_dict.get(goal)
        if relation == "on" and region is not None and region.parent_name in env.simulator.fixtures_dict:
            return thing, OnRegion(env, goal)
        if relation == "in" and goal.startswith("basket"):
            return thing, InRegion(env, goal)
    raise InputError(
        f"The expert can only put one thing on another, on a fixture or in a basket, not {goals}; change the task."
    )
