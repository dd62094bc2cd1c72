"""What a benchmark is to the runner, and the rules of an episode as data, stored with every result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from spatialvla.actions.units import ActionUnits
from spatialvla.errors import InputError
from spatialvla.types import Observation

DepthOrigin = Literal["estimate", "simulator"]
"""Where the policy's depth comes from: its own estimate, or the simulator's true one."""
DEPTH_ORIGINS = get_args(DepthOrigin)


@dataclass(frozen=True)
class Inputs:
    """What a policy takes beside what its first camera sees.

    cameras: names of the further ones. state_names: what the numbers of the arm's state are, () where it takes none.
    """

    cameras: tuple[str, ...] = ()
    state_names: tuple[str, ...] = ()

    def without(self, names: Collection[str]) -> Inputs:
        """Without some of the cameras, or without `state`. Raises InputError for what is not among them."""
        known = (*self.cameras, *(["state"] if self.state_names else []))
        if unknown := sorted(set(names) - set(known)):
            raise InputError(
                f"The policy takes no {unknown[0]!r} that it could play without; it takes "
                f"{', '.join(known) or 'its first camera alone'}."
            )
        cameras = tuple(name for name in self.cameras if name not in names)
        return Inputs(cameras, () if "state" in names else self.state_names)


FIRST_CAMERA_ALONE = Inputs()


@dataclass(frozen=True)
class Conventions:
    """How one episode is played, and what the policy sees and sends.

    time_limit: steps after settling, for all tasks or one a task; an episode that reaches it without success
    has failed.
    settle_steps: steps of `settle_action`, given like a policy's, that let the objects come to rest first.
    image_size: the image's longer side, pixels. control_hz: environment steps a second.
    ends_on_success: whether an episode ends once it succeeds; else it lasts to its limit, and counts as it
    ends.
    partial: what counts as partial success, where the benchmark knows one.
    rotation, crop, seeds: how rotations are written, what part of the image the policy sees, and what is
    drawn at random; empty where a file does not say. state: what is told of the arm; empty where nothing is.

    The sentences are stored with results and compared when an evaluation goes on. Do not reword them: results
    that are there already would no longer fit.
    """

    time_limit: int | tuple[int, ...]
    camera: str
    image_size: int
    image: str
    rendering: str
    action: str
    gripper: str
    control_hz: int
    settle_steps: int
    settle_action: tuple[float, ...]
    start_states: str
    success: str
    ends_on_success: bool = True
    partial: str = ""
    rotation: str = ""
    crop: str = ""
    seeds: str = ""
    state: str = ""

    def limit(self, task: int) -> int:
        """The time limit of one task."""
        return self.time_limit if isinstance(self.time_limit, int) else self.time_limit[task]


class Environment(Protocol):
    """One task, built once and played many times."""

    @property
    def partial(self) -> bool | None:
        """Whether this episode has come part of the way; None where the benchmark does not say."""

    @property
    def chose(self) -> bool | None:
        """Whether what this episode took first is what was meant; None before, and where there is nothing to choose."""

    @property
    def ended(self) -> bool:
        """Whether this episode cannot go on, though its time is not over."""

    @property
    def gripper_position(self) -> np.ndarray | None:
        """(3,) meters in the robot's frame: the point between the fingertips; None where nobody says."""

    def start(self, start_state: int) -> None:
        """Puts the stored start state in place and lets it settle; InputError if there is none."""

    def step(self, action: np.ndarray) -> bool:
        """One control step of a policy's action (7,), gripper 1 = open; True once the task is done."""

    def observe(self, depth: bool) -> Observation:
        """Renders what the policy sees now, with the true depth in meters if asked for."""

    def close(self) -> None:
        """Gives the renderer back."""


class Benchmark(Protocol):
    """A family of suites. It travels to the worker processes, so it must pickle."""

    @property
    def takes(self) -> ActionUnits:
        """The units of the actions that its environments' `step` takes."""

    @property
    def packages(self) -> tuple[str, ...]:
        """The distributions that decide what its environments do; their versions are stored with results."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the policy takes and its environments cannot give, in words: it plays without."""

    def instructions(self, suite: str) -> list[str]:
        """Each task's instruction, by task number; InputError for an unknown suite."""

    def most_episodes(self, suite: str, task: int) -> int | None:
        """How many episodes of a task there are start states for; None where as many as wanted are drawn."""

    def conventions(self, suite: str) -> Conventions:
        """The rules of the suite."""

    def open(self, suite: str, task: int, conventions: Conventions) -> Environment:
        """Builds the environment of one task."""
