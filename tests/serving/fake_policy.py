"""A policy without a network: its actions say what it saw, so that a swapped answer shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from spatialvla.errors import InputError
from spatialvla.execution import WHOLE_CHUNKS, Execution, Executor
from spatialvla.types import ActionChunk, Observation

CHUNK = 4
TokenRows = Sequence[np.ndarray | None] | None


def expected(observation: Observation) -> np.ndarray:
    """(CHUNK, 7) that the policy answers: the image's first pixel, its corner, and the instruction's length."""
    image = np.asarray(observation.image)
    row = [*(image[0, 0] / 1000.0), *(image[-1, -1] / 1000.0), len(observation.instruction) / 1000.0]
    return np.tile(row, (CHUNK, 1)) + np.arange(CHUNK)[:, None] / 1e5


class FakePolicy:
    """Answers after `seconds`. Instructions work mischief: "nan", "crash", "refuse", "batch crash"."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.speculate, self.temperature, self.execution = True, 0.0, Execution()
        self.batches: list[list[str]] = []
        self.given: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.executors: list[CountingExecutor] = []

    def predict(
        self, observations: Sequence[Observation], *, committed: TokenRows = None, drafts: TokenRows = None
    ) -> list[ActionChunk]:
        self.gate.wait(30)
        time.sleep(self.seconds)
        self.batches.append([observation.instruction for observation in observations])
        given = {"committed": committed, "drafts": drafts}
        self.given.append({name: rows for name, rows in given.items() if rows is not None})
        return [self._chunk(observation, len(observations)) for observation in observations]

    def _chunk(self, observation: Observation, batch: int) -> ActionChunk:
        text = observation.instruction
        if text == "crash" or (text == "batch crash" and batch > 1):
            raise RuntimeError("secret: /home/robot/weights")
        if text == "refuse":
            raise InputError("This instruction cannot be used.")
        actions = expected(observation)
        if text == "nan":
            actions[1, 2] = np.nan
        return ActionChunk(actions, np.tile([1, 101, 200], (CHUNK, 1)))

    def new_executor(self) -> CountingExecutor:
        self.executors.append(CountingExecutor())
        return self.executors[-1]


class CountingExecutor(Executor):
    """Executes whole chunks, and counts the episodes that were begun after its first."""

    def __init__(self) -> None:
        self.resets = -1
        super().__init__(WHOLE_CHUNKS)

    def reset(self) -> None:
        self.resets += 1
        super().reset()
