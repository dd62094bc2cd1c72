"""Which skills bring about a task's goal, in which order."""

from __future__ import annotations

from spatialvla.errors import InputError
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.carry import Carry
from spatialvla.simulation.libero.skills.carry_inside import CarryInside
from spatialvla.simulation.libero.skills.carry_into import CarryInto
from spatialvla.simulation.libero.skills.hand import Hand
from spatialvla.simulation.libero.skills.joint import MovingPart
from spatialvla.simulation.libero.skills.opening import Close, Open
from spatialvla.simulation.libero.skills.placing import InDrawer, OnRegion, place_for
from spatialvla.simulation.libero.skills.pushing import Push
from spatialvla.simulation.libero.skills.skill import Goal, Skill
from spatialvla.simulation.libero.skills.turning import Turn

_RELATIONS = {"on", "in", "open", "close", "turnon", "turnoff"}


def skills_for(env: LiberoEnv, hand: Hand) -> list[Skill]:
    """One for each part of the goal of this environment's task; what something goes into is closed last.

    Raises InputError if there is none for some part.
    """
    parts = env.simulator.parsed_problem["goal_state"]
    if not parts or not {part[0] for part in parts} <= _RELATIONS:
        raise InputError(f"The expert cannot make a goal of {parts}; change the task.")
    goals = [Goal(env, *part) for part in parts]
    return [
        _skill(env, hand, goal, goals) for goal in sorted(goals, key=lambda one: _closes_last(one, goals))
    ]


def _closes_last(goal: Goal, goals: list[Goal]) -> bool:
    return goal.relation == "close" and any(other.place.startswith(goal.subject) for other in goals)


def _skill(env: LiberoEnv, hand: Hand, goal: Goal, goals: list[Goal]) -> Skill:
    if goal.relation == "in" and "microwave" in goal.place:
        return CarryInside(env, hand, goal)
    if goal.relation in ("on", "in"):
        place = place_for(env, goal, [other.subject for other in goals if other.place == goal.place])
        if "plate" in goal.subject and isinstance(place, OnRegion):
            return Push(env, hand, goal, place)  # too wide and flat to be taken
        return (
            CarryInto(env, hand, goal, place)
            if isinstance(place, InDrawer)
            else Carry(env, hand, goal, place)
        )
    part = MovingPart(env, goal.subject)
    if goal.relation == "open":
        return Open(env, hand, goal, part)
    if goal.relation == "close":
        return Close(env, hand, goal, part)
    return Turn(env, hand, goal, part)
