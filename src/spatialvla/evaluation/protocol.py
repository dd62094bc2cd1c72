"""What a benchmark is to the runner, and the rules of an episode as data, stored with every result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spatialvla.errors import InputError
from spatialvla.types import Observation

DEPTH_SOURCES = ("estimate", "simulator")


@dataclass(frozen=True)
class Conventions:
    """How one episode is played, and what the policy sees and sends.

    time_limit: steps after settling; an episode that reaches it without success has failed.
    settle_steps: steps of `settle_action`, given like a policy's, that let the objects come to rest first.
    image_size: side of the square image, pixels. control_hz: environment steps a second.
    """

    time_limit: int
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


class Environment(Protocol):
    """One task, built once and played many times."""

    def start(self, start_state: int) -> None:
        """Puts the stored start state in place and lets it settle; InputError if there is none."""

    def step(self, action: np.ndarray) -> bool:
        """One control step of a policy's action (7,), gripper 1 = open; True once the task is done."""

    def observe(self, depth: bool) -> Observation:
        """Renders what the policy sees now, with the true depth in metres if asked for."""

    def close(self) -> None:
        """Gives the renderer back."""


class Benchmark(Protocol):
    """A family of suites. It travels to the worker processes, so it must pickle."""

    def instructions(self, suite: str) -> list[str]:
        """Each task's instruction, by task number; InputError for an unknown suite."""

    def conventions(self, suite: str) -> Conventions:
        """The rules of the suite."""

    def open(self, suite: str, task: int, conventions: Conventions) -> Environment:
        """Builds the environment of one task."""


@dataclass(frozen=True)
class Job:
    """Episodes of one task, played in one environment. start_states: numbers of the stored states."""

    suite: str
    task: int
    start_states: tuple[int, ...]


def plan_jobs(suite: str, tasks: list[int], episodes_per_task: int, workers: int) -> list[Job]:
    """One job a task, as building an environment is dear; split further only where workers would idle."""
    counts = {"tasks": len(tasks), "episodes_per_task": episodes_per_task, "workers": workers}
    for name, number in counts.items():
        if number < 1:
            raise InputError(f"an evaluation needs at least 1 of {name}, got {number}")
    pieces = min(episodes_per_task, -(-workers // len(tasks)))
    return [
        Job(suite, task, tuple(range(piece, episodes_per_task, pieces)))
        for task in tasks
        for piece in range(pieces)
    ]
