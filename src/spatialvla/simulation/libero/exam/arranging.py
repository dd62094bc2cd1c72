"""Puts the spatial exam's things in their places in LIBERO's simulator, on a table of any height."""

from __future__ import annotations

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.exam.layouts import MEANT, OTHER, PLATE
from spatialvla.simulation.libero.exam.questions import Question
from spatialvla.simulation.libero.tasks import Task, tasks

_SCENE = "pick_up_the_black_bowl_next_to_the_ramekin_and_place_it_on_the_plate"
_LIFTED = 0.04  # meters above where it stood
_EXAMINED = 2**20  # more episodes of a question than anybody evaluates


def scene() -> Task:
    """The task of LIBERO's whose things, fixtures and goal the exam has; all of its things stand on the table.

    Raises InputError where LIBERO is not installed.
    """
    return next(task for task in tasks("libero_spatial") if task.name == _SCENE)


def raise_table(env: LiberoEnv, by: float) -> None:
    """Moves the table alone to `by` meters above where LIBERO has it; what stands on it has to follow."""
    simulator = env.simulator
    x, y, height = simulator.table_offset
    table = env.model.body("table").id
    env.model.body_pos[table][2] = height - simulator.table_full_size[2] / 2 + by
    simulator.workspace_offset = (x, y, height + by)


def arrange(env: LiberoEnv, question: Question, seed: int, episode: int) -> None:
    """Moves to the start of one episode: the table and all things as the question says.

    How the cabinet and the stove stand is drawn by LIBERO's own sampler, alike in both halves of a pair. The camera
    and the arm's joints are always the same.
    """
    raise_table(env, 0.0)
    env.sample_state(np.random.default_rng(question.layout.seeds(seed, episode)))
    raise_table(env, question.raised)
    simulator = env.simulator
    robot = simulator.robots[0]
    env.data.qpos[robot._ref_joint_pos_indexes] = robot.init_qpos
    for fixture in simulator.fixtures_dict:
        env.model.body_pos[simulator.obj_body_id[fixture]][2] += question.raised
    for thing, place in question.places(seed, episode).items():
        joint = env.data.joint(simulator.objects_dict[thing].joints[-1])
        joint.qpos[:2] = place
        joint.qpos[2] += question.raised
    simulator.sim.forward()


def arrange_for_practice(env: LiberoEnv, question: Question, seed: int, rng: np.random.Generator) -> None:
    """Moves to the start of an episode that the exam of this seed would only come to after a million others."""
    arrange(env, question, seed, int(rng.integers(_EXAMINED, 2**31)))


class BowlWatch:
    """Which of the two bowls a policy takes: the one that it lifts first, or gets onto the plate unlifted.

    Make it when the bowls have come to rest, and call it after each step.
    """

    def __init__(self, env: LiberoEnv) -> None:
        self._env = env
        self._bodies = {bowl: env.simulator.obj_body_id[bowl] for bowl in (MEANT, OTHER)}
        self._rest = {bowl: float(env.data.xpos[body][2]) for bowl, body in self._bodies.items()}
        self.taken: str | None = None

    def __call__(self) -> None:
        """Looks at both bowls."""
        for bowl, body in self._bodies.items():
            lifted = self._env.data.xpos[body][2] > self._rest[bowl] + _LIFTED
            if self.taken is None and (lifted or self.on_plate(bowl)):
                self.taken = bowl

    def on_plate(self, bowl: str) -> bool:
        """By LIBERO's own predicate."""
        return bool(self._env.simulator._eval_predicate(["on", bowl, PLATE]))
