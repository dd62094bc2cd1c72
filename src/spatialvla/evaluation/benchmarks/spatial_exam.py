"""The spatial exam as a benchmark: its suites, its rules, and its questions as environments of LIBERO's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spatialvla.evaluation.benchmarks import idle_environment
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark, LiberoTask
from spatialvla.evaluation.benchmarks.protocol import Conventions
from spatialvla.simulation.libero.exam.arranging import BowlWatch, arrange, raise_table, scene
from spatialvla.simulation.libero.exam.layouts import MEANT, OTHER
from spatialvla.simulation.libero.exam.questions import QUESTIONS, Question, seed_of


@dataclass(frozen=True)
class SpatialExamBenchmark(LiberoBenchmark):
    """The questions of `simulation.libero.exam`, by the rules of LIBERO-Spatial but for how episodes start and end."""

    def instructions(self, suite: str) -> list[str]:
        """Each question's instruction and what is changed, by number; InputError for an unknown suite."""
        seed_of(suite)
        scene()
        return [question.label for question in QUESTIONS]

    def most_episodes(self, suite: str, task: int) -> int | None:
        """As many as are asked for."""
        return None

    def conventions(self, suite: str) -> Conventions:
        """LIBERO-Spatial's rules, with drawn start states."""
        seed = seed_of(suite)
        return replace(
            super().conventions("libero_spatial"),
            start_states=f"episode i is drawn with seed {seed}, the question's layout and i, alike in both halves of a "
            "pair; no stored start state is used",
            success="LIBERO's goal predicate, checked after every step: the meant bowl is on the plate; the episode "
            "ends once it holds, or fails once the other bowl is on the plate",
            seeds="things and fixtures are placed with a seed drawn from the exam's, the layout and the episode; "
            "nothing else is random",
        )

    def open(self, suite: str, task: int, conventions: Conventions) -> SpatialExamTask:
        """Builds the environment of one question, which takes some ten seconds, or takes that of the last one."""
        return SpatialExamTask(QUESTIONS[task], seed_of(suite), conventions, self)


class SpatialExamTask(LiberoTask):
    """One question of the exam, in as many episodes as are asked for."""

    def __init__(
        self, question: Question, seed: int, conventions: Conventions, benchmark: LiberoBenchmark
    ) -> None:
        task = scene()
        env = idle_environment.taken(task, conventions.image_size)
        super().__init__(replace(task, language=question.instruction), conventions, benchmark, env=env)
        self.env, self._question, self._seed = env, question, seed

    def start(self, start_state: int) -> None:
        """Draws the episode of this number and lets its things settle."""
        arrange(self.env, self._question, self._seed, start_state)
        self.env.settle(self._settle_steps)
        self._watch = BowlWatch(self.env)
        self.chose, self.ended = None, False

    def step(self, action: np.ndarray) -> bool:
        """As `LiberoTask.step`, with an eye on both bowls: the wrong one on the plate ends the episode."""
        success = super().step(action)
        self._watch()
        if self._watch.taken is not None:
            self.chose = self._watch.taken == MEANT
        self.ended = self._watch.on_plate(OTHER)
        return success

    def close(self) -> None:
        """Leaves the environment, as it was built, to the next question."""
        raise_table(self.env, 0.0)
        idle_environment.left(self.env)
