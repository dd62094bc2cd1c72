"""How LIBERO's demonstrations are recorded: which tasks, which cameras, and which policy may drive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from spatialvla.actions.units import LIBERO
from spatialvla.simulation.libero.arm_state import is_of_libero
from spatialvla.simulation.libero.demonstration import demonstrate
from spatialvla.simulation.libero.env import FPS, LiberoEnv
from spatialvla.simulation.libero.exam.arranging import arrange_for_practice, raise_table, scene
from spatialvla.simulation.libero.exam.questions import QUESTIONS, is_exam, seed_of
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.tasks import tasks
from spatialvla.simulation.libero.viewpoints import viewpoints
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.simulation.recording.dataset import Embodiment
from spatialvla.simulation.recording.demonstration import Demonstration
from spatialvla.simulation.recording.recorder import Play, check_policy, driving_policy

PANDA = Embodiment("panda", "agentview", FPS, LIBERO)
_CAMERAS = 1  # the last part of the seed that cameras are drawn by


@dataclass(frozen=True)
class LiberoRecorder:
    """Records LIBERO's suites and the spatial exam. image_size: side of the pictures, pixels."""

    image_size: int = 128
    embodiment = PANDA

    def check(self, config: RecordingConfig) -> None:
        """Raises InputError for a policy of another controller's actions, or of a state that LIBERO's arm has not."""
        check_policy(config, LIBERO, "LIBERO's controller", is_of_libero)

    def task_names(self, suite: str) -> Sequence[str]:
        """LIBERO's own, or the exam's questions; InputError for an unknown suite."""
        if is_exam(suite):
            seed_of(suite)
            return [question.label for question in QUESTIONS]
        return [task.name for task in tasks(suite)]

    @contextmanager
    def playing(self, config: RecordingConfig, task: int) -> Iterator[Play]:
        """The scene of one task. Raises InputError if the expert does not know the task."""
        policy = driving_policy(config)
        question = QUESTIONS[task] if is_exam(config.suite) else None
        played = replace(scene(), language=question.instruction) if question else tasks(config.suite)[task]
        env = LiberoEnv(played, self.image_size, rendering="near" if config.wrist else "fast")
        expert, begin = LiberoExpert(env), None
        if question:
            raise_table(env, question.raised)  # Cameras look at the table's top, from the first episode on.
            begin = partial(arrange_for_practice, env, question, seed_of(config.suite))

        def play(seed: Sequence[int]) -> Demonstration | None:
            others = viewpoints(env, np.random.default_rng([*seed, _CAMERAS]), config.views)
            rng = np.random.default_rng(seed)
            return demonstrate(
                env, expert, rng, draw_every=config.draw_every, policy=policy, others=others, begin=begin
            )

        yield play
        env.close()
