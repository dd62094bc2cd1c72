"""LIBERO as a benchmark: its suites, its rules, and its tasks as environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from spatialvla.actions.units import LIBERO, ActionUnits
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import Conventions
from spatialvla.simulation.libero.env import SETTLING_ACTION, SETTLING_STEPS, LiberoEnv
from spatialvla.simulation.libero.tasks import Task, tasks
from spatialvla.types import Observation

# Steps after settling, as the LIBERO evaluations since OpenVLA count them: the longest human demonstration of
# the suite, rounded up. A suite derived from another one (libero_spatial_with_mug) has that one's limit.
TIME_LIMITS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_90": 400,
    "libero_10": 520,
}
_OTHER_TIME_LIMIT = 520

CAMERA = "agentview"


def time_limit(suite: str) -> int:
    """How many steps an episode of this suite may take after settling."""
    bases = [base for base in TIME_LIMITS if suite == base or suite.startswith(f"{base}_")]
    return TIME_LIMITS[bases[0]] if bases else _OTHER_TIME_LIMIT


@dataclass(frozen=True)
class LiberoBenchmark:
    """Every suite of the installed LIBERO, with stored start states and stock rendering.

    image_size: side of the rendered image in pixels; 128 and 256 are what LIBERO's datasets have.
    """

    image_size: int = 128

    @classmethod
    def for_policy(cls, image_size: int, units: ActionUnits) -> Self:
        """Pictures of the datasets' size that is nearest above the policy's."""
        return cls(128 if image_size <= 128 else 256)

    @property
    def takes(self) -> ActionUnits:
        """What LIBERO's controller takes."""
        return LIBERO

    def instructions(self, suite: str) -> list[str]:
        """Each task's instruction, by task number; InputError for a suite that is not installed."""
        return [task.language for task in tasks(suite)]

    def conventions(self, suite: str) -> Conventions:
        """The rules of the suite, as LIBERO evaluations since OpenVLA have them."""
        return Conventions(
            time_limit=time_limit(suite),
            camera=CAMERA,
            image_size=self.image_size,
            image="RGB as rendered, rotated by 180 degrees; intrinsics are those of the rotated image",
            rendering="stock: shadows and reflections as LIBERO ships them",
            action="end-effector deltas of LIBERO's OSC_POSE controller, 1 = 5 cm or 0.5 rad",
            gripper="policy: 1 = open, 0 = closed; sent to the controller as 1 - 2 * gripper",
            control_hz=20,
            settle_steps=SETTLING_STEPS,
            settle_action=tuple(SETTLING_ACTION.tolist()),
            start_states="episode i starts from the benchmark's stored start state i",
            success="LIBERO's goal predicate, checked after every step; the episode ends once it holds",
            rotation="axis-angle deltas (rotation vectors), added in the world's frame; "
            "no quaternion is involved",
            crop="none: all of the rendered image is resized to the model's",
            seeds="fixtures are placed with a seed drawn from the start state; nothing else is random",
        )

    def open(self, suite: str, task: int, conventions: Conventions) -> LiberoTask:
        """Builds the environment of one task, which takes some ten seconds."""
        return LiberoTask(tasks(suite)[task], conventions)


def stock_environment(task: Task, image_size: int) -> LiberoEnv:
    """A task as the benchmark has it."""
    return LiberoEnv(task, image_size, CAMERA, rendering="stock")


class LiberoTask:
    """One task of LIBERO, built once and played many times.

    start_states: how many of the stored start states are played, from the first on; all unless given.
    env: the task's environment, as `stock_environment` builds it, where there is one already.
    """

    partial = None

    def __init__(
        self,
        task: Task,
        conventions: Conventions,
        start_states: int | None = None,
        env: LiberoEnv | None = None,
    ) -> None:
        self._task = task
        self._states = task.start_states()[:start_states]
        self._settle_steps = conventions.settle_steps
        self._env = env or stock_environment(task, conventions.image_size)

    def start(self, start_state: int) -> None:
        """Puts the stored start state in place and lets it settle; InputError if there is none."""
        if start_state >= len(self._states):
            raise InputError(
                f"{self._task.suite}/{self._task.name} starts from {len(self._states)} stored state(s); "
                f"play at most that many episodes a task."
            )
        self._env.reset_to(self._states[start_state])
        self._env.settle(self._settle_steps)

    def step(self, action: np.ndarray) -> bool:
        """One control step (50 ms) of a policy's action (7,), gripper 1 = open; True once the goal holds."""
        return self._env.step(action)

    def observe(self, depth: bool) -> Observation:
        """The camera's picture, upright and mirrored, its intrinsics and place and, if asked for, depth in meters."""
        image, meters = self._env.render_rgbd() if depth else (self._env.render(), None)
        env = self._env
        return Observation(image, self._task.language, env.intrinsics, meters, env.extrinsics, mirrored=True)

    def close(self) -> None:
        """Gives the renderer back."""
        self._env.close()
