"""A scripted expert for LIBERO's tasks: it carries, opens, closes, turns and pushes, one part of a goal at a time.

The action is a function of the simulator's present state alone. Nothing counts phases: what to do next
follows from where the thing, the gripper and the place are, so the expert recovers from any disturbance, can
label states another policy reached (DAgger, Ross et al. 2011), and can be cloned by a policy without memory.
"""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.skills.goals import skills_for
from spatialvla.simulation.libero.skills.hand import Hand


class LiberoExpert:
    """The expert for one environment's task. Calling it gives the action for the environment's present state.

    Raises InputError if the task's goal has a part that no skill brings about.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self._hand = Hand(env)
        self._skills = skills_for(env, self._hand)

    def __call__(self) -> np.ndarray:
        """(7,) float32: translation and rotation in the controller's units, gripper 0 closed or 1 open."""
        left = [skill for skill in self._skills if not skill.done()]
        skill = left[0] if left else self._skills[-1]
        return self._hand.action(skill.motion())
