"""Where to put the thing that a task's goal names: onto a thing or a surface, into a basket, caddy or drawer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spatialvla.errors import InputError
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.boxes import boxes, geoms
from spatialvla.simulation.libero.skills.joint import MovingPart
from spatialvla.simulation.libero.skills.skill import Goal


@dataclass(frozen=True)
class Target:
    """Where the held thing's origin has to be when it is let go.

    center: (2,) meters. height: meters. rim: meters above `height` that have to be cleared on the way there.
    across: (2,) the direction in which the fingers slide when they let go, if there is no room for another.
    """

    center: np.ndarray
    height: float
    rim: float = 0.0
    across: np.ndarray | None = None


BEHIND_FRONT = 0.06  # meters from a drawer's front to what is put into it


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
    """Into a region that is open above, as that of a basket or a tray; the thing may fall from the region's top."""

    stands_on: tuple[str, ...] = ()

    def __init__(self, env: LiberoEnv, goal: str) -> None:
        self._site = env.data.site(goal)
        self._half = env.simulator.object_sites_dict[goal].size

    def target(self) -> Target:
        top = self._site.xpos + np.abs(self._site.xmat.reshape(3, 3)) @ self._half
        return Target(np.array(self._site.xpos[:2]), float(top[2]))


class OnRegion:
    """Onto a region of the table, or of something that stands fast, such as a stove's or a cabinet's top.

    What several things share they stand on side by side, each narrow side to the next.
    """

    stands_on: tuple[str, ...] = ()

    def __init__(self, env: LiberoEnv, goal: Goal, sharing: Sequence[str] = ()) -> None:
        self._env = env
        self._site = env.data.site(goal.place)
        self._half = env.simulator.object_sites_dict[goal.place].size
        self._geoms = geoms(env, env.simulator.objects_dict[goal.subject].contact_geoms)
        self._steps = sharing.index(goal.subject) - (len(sharing) - 1) / 2 if len(sharing) > 1 else 0.0

    def target(self) -> Target:
        center = np.array(self._site.xpos[:2])
        if self._steps:
            size = np.ptp(boxes(self._env, self._geoms).corners()[..., :2], axis=(0, 1))
            narrow = int(np.argmin(size))
            center[narrow] += self._steps * size[narrow]
        return Target(center, float(self._site.xpos[2] + self._half[2]))


class InCompartment:
    """Into a narrow region that is open above, as those of a desk caddy, turned so that the hand fits, too."""

    stands_on: tuple[str, ...] = ()

    def __init__(self, env: LiberoEnv, goal: str) -> None:
        self._env = env
        region = env.simulator.object_sites_dict[goal]
        self._site, self._half = env.data.site(goal), region.size
        self._geoms = geoms(env, env.simulator.get_object(region.parent_name).contact_geoms)

    def target(self) -> Target:
        half = np.abs(self._site.xmat.reshape(3, 3)) @ self._half
        floor = self._site.xpos[2] - half[2]
        rim = boxes(self._env, self._geoms).corners()[..., 2].max()
        narrow = np.array([1.0, 0]) if half[0] < half[1] else np.array([0, 1.0])
        return Target(np.array(self._site.xpos[:2]), float(floor), float(rim - floor), narrow)


class InDrawer:
    """Into the part of a drawer that is drawn out."""

    stands_on: tuple[str, ...] = ()

    def __init__(self, env: LiberoEnv, goal: str, part: MovingPart) -> None:
        self._env, self.part = env, part
        self._site = env.data.site(goal)
        self._half = env.simulator.object_sites_dict[goal].size

    def target(self) -> Target:
        way = self.part.opens_towards(self._site.xpos)
        half = np.abs(self._site.xmat.reshape(3, 3)) @ self._half
        center = self._site.xpos + (np.abs(way) @ half - BEHIND_FRONT) * way
        floor = self._site.xpos[2] - half[2]
        rim = boxes(self._env, self.part.geoms).corners()[..., 2].max()
        return Target(center[:2], float(floor), float(rim - floor), np.array([-way[1], way[0]]))


def place_for(env: LiberoEnv, goal: Goal, sharing: Sequence[str] = ()) -> Place:
    """Where one part of a task's goal wants its thing.

    sharing: all things that the goal wants there.

    Raises InputError if that is a kind of place that the expert does not know.
    """
    place = goal.place
    if goal.relation == "on" and place in env.simulator.objects_dict:
        return OnThing(env, place)
    region = env.simulator.object_sites_dict.get(place)
    if goal.relation == "on" and region is not None:
        return OnRegion(env, goal, sharing)
    if goal.relation == "in" and region is not None and region.joints:
        return InDrawer(env, place, MovingPart(env, place))
    if goal.relation == "in" and place.startswith(("basket", "wooden_tray")):
        return InRegion(env, place)
    if goal.relation == "in" and region is not None and region.parent_name.startswith("desk_caddy"):
        return InCompartment(env, place)
    raise InputError(
        f"The expert cannot put {goal.subject} {goal.relation} {place}: it knows things, surfaces, drawers, baskets, "
        "trays and caddies; change the task."
    )
