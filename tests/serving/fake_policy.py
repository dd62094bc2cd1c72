"""A policy without a network: its actions say what it saw, so that a swapped answer shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spatialvla.collation import Prepared
from spatialvla.errors import InputError, NotFiniteError
from spatialvla.execution import WHOLE_CHUNKS, Execution, Executor
from spatialvla.processor import Processor
from spatialvla.types import ActionChunk, Observation

SIZE = 16
PROCESSOR = replace(Processor.from_pretrained("nano"), image_size=SIZE)
CHUNK = PROCESSOR.action_chunk_size
TOKENS = np.array([start + 1 for start, _ in PROCESSOR.grid.ranges])
"""(3,) of each step that the policy answers."""


@dataclass(frozen=True)
class Seen(Prepared):
    """A prepared observation, and the instruction that it came with."""

    instruction: str


def expected(observation: Observation) -> np.ndarray:
    """(CHUNK, 7) that the policy answers: the image's first pixel, its corner, and the instruction's length."""
    image = np.asarray(observation.image)
    row = [*(image[0, 0] / 1000.0), *(image[-1, -1] / 1000.0), len(observation.instruction) / 1000.0]
    return np.tile(row, (CHUNK, 1)) + np.arange(CHUNK)[:, None] / 1e5


class FakePolicy:
    """Answers after `seconds`. Instructions work mischief: "nan", "not finite", "crash", "refuse",
    "batch crash".

    batches, drafts, committed: of each batch its rows' instructions, their drafts and their committed steps.
    """

    needs_extrinsics = False

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.execution = Execution()
        self.batches: list[list[str]] = []
        self.drafts: list[list[np.ndarray | None]] = []
        self.committed: list[list[np.ndarray]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.executors: list[CountingExecutor] = []

    def prepare(self, observation: Observation, committed: np.ndarray | None = None) -> Seen:
        """Checked as by a real policy, with pictures of SIZE pixels."""
        prepared = PROCESSOR.prepare(
            observation.image,
            observation.instruction,
            intrinsics=observation.intrinsics,
            depth=observation.depth,
            committed=committed,
        )
        return Seen(**vars(prepared), instruction=observation.instruction)

    def decide(self, observations: Sequence[Any], executors: Sequence[Executor]) -> list[ActionChunk]:
        self.gate.wait(30)
        time.sleep(self.seconds)
        self.batches.append([seen.instruction for seen in observations])
        self.committed.append([seen.committed for seen in observations])
        self.drafts.append(
            [executor.draft(seen.committed) for executor, seen in zip(executors, observations, strict=True)]
        )
        return [self._chunk(seen, len(observations)) for seen in observations]

    def _chunk(self, seen: Seen, batch: int) -> ActionChunk:
        text = seen.instruction
        if text == "crash" or (text == "batch crash" and batch > 1):
            raise RuntimeError("secret: /home/robot/weights")
        if text == "not finite":
            raise NotFiniteError("The model's logits contain NaN.")
        if text == "refuse":
            raise InputError("This instruction cannot be used.")
        actions = expected(Observation(seen.views[0].image, text))
        if text == "nan":
            actions[1, 2] = np.nan
        return ActionChunk(actions, np.tile(TOKENS, (CHUNK, 1)))

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
