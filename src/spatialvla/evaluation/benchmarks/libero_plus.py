"""LIBERO-plus as a benchmark: LIBERO's tasks from moved cameras, with other arm starts, other words and noise."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from spatialvla.evaluation.benchmarks import idle_environment
from spatialvla.evaluation.benchmarks.libero import CAMERA, LiberoBenchmark, LiberoTask
from spatialvla.evaluation.benchmarks.protocol import Conventions
from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.simulation.libero import picture_noise
from spatialvla.simulation.libero.camera_move import UNMOVED
from spatialvla.simulation.libero.plus import Variation, arm_joints, base_suite, variations
from spatialvla.types import Observation


@dataclass(frozen=True)
class LiberoPlusBenchmark(LiberoBenchmark):
    """The suites of `plus.SUITES`; each task is one episode, by the rules of the suite that it changes."""

    def instructions(self, suite: str) -> list[str]:
        """Each task's instruction and what is changed, by task number; InputError for an unknown suite."""
        return [variation.label for variation in variations(suite)]

    def most_episodes(self, suite: str, task: int) -> int | None:
        """One."""
        return 1

    def conventions(self, suite: str) -> Conventions:
        """The rules of the suite that is changed."""
        usual = super().conventions(base_suite(suite))
        rules = replace(
            usual,
            camera=usual.camera.replace(
                CAMERA, f"{CAMERA}, moved where the task's name in LIBERO-plus says so", 1
            ),
            start_states="the only episode of a task starts from the benchmark's stored start state 0",
        )
        if not suite.startswith("libero_plus_noise_"):
            return rules
        return replace(
            rules,
            image_size=picture_noise.SIZE,
            image=f"{rules.image}; with the noise that the task's name says",
            seeds=f"{rules.seeds} but the pictures' noise, whose seed is its number and the start state's",
        )

    def open(self, suite: str, task: int, conventions: Conventions) -> LiberoPlusTask:
        """Builds the environment of one task, which takes some ten seconds, or takes that of the last one."""
        return LiberoPlusTask(variations(suite)[task], conventions, self)


class LiberoPlusTask(LiberoTask):
    """One task of LIBERO-plus, with one start state."""

    def __init__(self, variation: Variation, conventions: Conventions, benchmark: LiberoBenchmark) -> None:
        env = idle_environment.taken(variation.task, conventions.image_size)
        super().__init__(variation.task, conventions, benchmark, start_states=1, env=env)
        self._camera, self._is_as_it_was = ExitStack(), not variation.arm_start
        if variation.camera != UNMOVED:
            moved = variation.camera.applied(mirror_extrinsics(env.camera_pose))
            self._camera.enter_context(env.looking_through(CAMERA, moved))
        if variation.arm_start:
            env.start_arm_at(arm_joints(variation.arm_start))
        self._noise = variation.noise

    def start(self, start_state: int) -> None:
        """As `LiberoTask.start`; noise is drawn anew from the same seed."""
        self._rng = np.random.default_rng([self._noise, start_state])
        super().start(start_state)

    def observe(self, depth: bool) -> Observation:
        """As `LiberoTask.observe`, with noise in the first camera's picture, not its depth, where the task has it."""
        seen = super().observe(depth)
        if not self._noise:
            return seen
        # The benchmark disturbs the picture as it is drawn, before it is turned.
        drawn = np.asarray(seen.image)[::-1, ::-1]
        noisy = picture_noise.disturbed(drawn, self._noise, self._rng)
        return replace(seen, image=np.ascontiguousarray(noisy[::-1, ::-1]))

    def close(self) -> None:
        """Leaves the environment, as it was built, to the next task that plays the same scene."""
        self._camera.close()
        if self._is_as_it_was:
            idle_environment.left(self._env)
        else:
            super().close()
