"""What every skill is: it says whether its part of the goal is done, and how the hand should move now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv


@dataclass(frozen=True)
class Motion:
    """What the hand should do now.

    move: (3,) meters in the world. rotation: (3, 3) of the gripper in the world. gripper: 0 closed or 1 open.
    """

    move: np.ndarray
    rotation: np.ndarray
    gripper: float


@dataclass(frozen=True)
class Goal:
    """One part of what a task asks for, as LIBERO writes it: `(in milk_1 basket_1_contain_region)`.

    relation: in, on, open, close, turnon or turnoff. subject: what is to be moved, a thing, a fixture or its region.
    place: where to, for in and on.
    """

    env: LiberoEnv
    relation: str
    subject: str
    place: str = ""

    def holds(self) -> bool:
        """Whether LIBERO's own predicate holds in the simulator's present state."""
        words = [self.relation, self.subject, *([self.place] if self.place else [])]
        return bool(self.env.simulator._eval_predicate(words))


class Skill(Protocol):
    """One part of a task's goal, as the hand brings it about. It remembers nothing from step to step."""

    def done(self) -> bool:
        """Whether this part of the goal holds, and the hand is off what it moved."""

    def motion(self) -> Motion:
        """Towards `done`, from the simulator's present state."""
