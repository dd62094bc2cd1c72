"""A benchmark without a simulator and a policy without a network. Worker processes import this file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialvla.actions.units import UNKNOWN
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.protocol import Conventions
from spatialvla.execution import WHOLE_CHUNKS, Executor
from spatialvla.types import ActionChunk, Observation, Uncertainty

K = np.array([[16.0, 0, 8], [0, 16, 8], [0, 0, 1]])
INSTRUCTIONS = ["pick up the bowl", "open the drawer", "push the plate"]
CHUNK = 4


def conventions(time_limit: int = 20) -> Conventions:
    return Conventions(
        time_limit=time_limit,
        camera="fake",
        image_size=16,
        image="as is",
        rendering="none",
        action="x counts",
        gripper="ignored",
        control_hz=20,
        settle_steps=0,
        settle_action=(0.0,) * 7,
        start_states="i",
        success="the sum of x reaches the goal",
    )


@dataclass(frozen=True)
class FakeBenchmark:
    """Task t from start state s succeeds once the actions' x add up to 3 + 2 t + s; state 4 never ends.

    halfway: from which x on an episode is a partial success. played: a file that notes each start.
    """

    dies_in: int | None = None
    breaks_in: int | None = None
    states: int = 5
    halfway: float | None = None
    played: Path | None = None

    takes = UNKNOWN
    packages = ()
    left_out = ()

    def instructions(self, suite: str) -> list[str]:
        if suite != "fake":
            raise InputError(f"no suite {suite!r}")
        return INSTRUCTIONS

    def most_episodes(self, suite: str, task: int) -> int | None:
        return self.states

    def conventions(self, suite: str) -> Conventions:
        return conventions()

    def open(self, suite: str, task: int, conventions: Conventions) -> FakeEnvironment:
        return FakeEnvironment(self, task)


class FakeEnvironment:
    ended = False
    chose = None

    def __init__(self, benchmark: FakeBenchmark, task: int) -> None:
        self.benchmark, self.task = benchmark, task

    @property
    def partial(self) -> bool | None:
        halfway = self.benchmark.halfway
        return None if halfway is None else self.position >= halfway

    @property
    def gripper_position(self) -> np.ndarray:
        return np.array([0.01 * self.position, 0.0, 0.2])

    def start(self, start_state: int) -> None:
        if self.benchmark.played:
            with self.benchmark.played.open("a") as file:
                file.write(f"{self.task} {start_state}\n")
        if start_state >= self.benchmark.states:
            raise InputError(f"there is no start state {start_state}")
        self.goal = 3 + 2 * self.task + start_state if start_state < 4 else np.inf
        self.position = 0.0
        self.steps = 0

    def step(self, action: np.ndarray) -> bool:
        if self.benchmark.dies_in == self.task:
            os._exit(9)
        if self.benchmark.breaks_in == self.task:
            raise RuntimeError("the bowl fell off the world")
        assert self.position < self.goal, "stepped on after success"
        self.steps += 1
        self.position += action[0]
        return self.position >= self.goal

    def observe(self, depth: bool) -> Observation:
        image = np.full((16, 16, 3), self.steps, np.uint8)
        meters = np.full((16, 16), 1.5) if depth else None
        return Observation(image, INSTRUCTIONS[self.task], K, meters, np.eye(4), mirrored=True)

    def close(self) -> None:
        pass


class FakePolicy:
    """x = 1 in every step; remembers batch sizes and whether depth came along.

    unsure: tells an uncertainty that is the brightness of the picture, which is the number of steps done.
    """

    def __init__(self, unsure: bool = False) -> None:
        self.unsure = unsure
        self.batches: list[int] = []
        self.depths: list[bool] = []
        self.episodes = 0

    def predict(self, observations: list[Observation]) -> list[ActionChunk]:
        self.batches.append(len(observations))
        self.depths += [observation.depth is not None for observation in observations]
        actions = np.zeros((CHUNK, 7))
        actions[:, 0] = 1.0
        tokens = np.zeros((CHUNK, 3), np.int64)
        return [ActionChunk(actions, tokens, self._uncertainty(seen)) for seen in observations]

    def _uncertainty(self, seen: Observation) -> Uncertainty | None:
        if not self.unsure:
            return None
        steps = float(np.asarray(seen.image).max())
        # Means over the chunk: 1, 2 and 3 times the steps, and 10 times.
        around = np.array([-0.5, 0.5, 0.0, 0.0])
        return Uncertainty((steps + around)[:, None].clip(0) * [1, 2, 3], 10 * steps + around)

    def decide(self, observations: list[Observation], executors: list[FakeExecutor]) -> list[ActionChunk]:
        return self.predict(observations)

    def new_executor(self) -> FakeExecutor:
        self.episodes += 1
        return FakeExecutor()


class FakeExecutor(Executor):
    def __init__(self) -> None:
        super().__init__(WHOLE_CHUNKS)
        self.seen: list[int] = []
