"""A policy without a network: its actions say what it saw, so that a swapped answer shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.collation import Prepared
from spatialvla.errors import InputError, NotFiniteError
from spatialvla.execution import WHOLE_CHUNKS, Execution, Executor
from spatialvla.geometry.camera import View
from spatialvla.processor import Processor
from spatialvla.types import ActionChunk, CameraImage, Observation, Uncertainty

SIZE = 16
PROCESSOR = replace(Processor.from_pretrained("nano"), image_size=SIZE)
DATASET = next(iter(PROCESSOR.statistics))
CHUNK = PROCESSOR.action_chunk_size
TOKENS = np.array([start + 1 for start, _ in PROCESSOR.grid.ranges])
"""(3,) of each step that the policy answers."""


@dataclass(frozen=True)
class Seen(Prepared):
    """A prepared observation, and the instruction that it came with."""

    instruction: str = ""


def expected(observation: Observation) -> np.ndarray:
    """(CHUNK, 7) that the policy answers: the image's first pixel, its corner, and the instruction's length."""
    image = np.asarray(observation.image)
    row = [*(image[0, 0] / 1000.0), *(image[-1, -1] / 1000.0), len(observation.instruction) / 1000.0]
    return np.tile(row, (CHUNK, 1)) + np.arange(CHUNK)[:, None] / 1e5


class FakePolicy:
    """Answers after `seconds`. Instructions work mischief: "nan", "not finite", "crash", "refuse",
    "batch crash".

    cameras, state_size: of what it looks at. seen: the observations that it was asked about.
    uncertainty: tells how sure it is: by the number in "unsure 30" the mm and the bits of a chunk.
    batches, drafts, committed: of each batch its rows' instructions, their drafts and their committed steps.
    """

    def __init__(
        self,
        seconds: float = 0.0,
        *,
        cameras: tuple[str, ...] = ("image",),
        state_size: int = 0,
        needs_extrinsics: bool = False,
        uncertainty: bool = False,
    ) -> None:
        self.seconds = seconds
        self.camera_names, self.needs_extrinsics = cameras, needs_extrinsics
        self.uncertainty = uncertainty
        self.state_names = tuple(f"s{number}" for number in range(state_size))
        self.seen: list[Observation] = []
        statistics = StateStatistics(-np.ones(state_size), np.ones(state_size)) if state_size else None
        self._processor = replace(
            PROCESSOR,
            camera_names=cameras,
            state_names=self.state_names,
            state_statistics={DATASET: statistics} if statistics else {},
            other_cameras=dict.fromkeys(cameras[1:], PROCESSOR.cameras),
        )
        self.execution = Execution()
        self.batches: list[list[str]] = []
        self.drafts: list[list[np.ndarray | None]] = []
        self.committed: list[list[np.ndarray]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.executors: list[CountingExecutor] = []

    def prepare(self, observation: Observation, committed: np.ndarray | None = None) -> Seen:
        """Checked as by a real policy, with pictures of SIZE pixels."""
        self.seen.append(observation)
        prepared = self._processor.prepare(
            observation.image,
            observation.instruction,
            DATASET,
            intrinsics=observation.intrinsics,
            depth=observation.depth,
            other_views={name: _view(name, seen) for name, seen in observation.images.items()},
            state=observation.state,
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
        return ActionChunk(actions, np.tile(TOKENS, (CHUNK, 1)), self._unsure(text))

    def _unsure(self, text: str) -> Uncertainty | None:
        if not self.uncertainty:
            return None
        level = float(text.removeprefix("unsure ")) if text.startswith("unsure ") else 0.0
        # Other numbers in each step, whose mean is the level.
        steps = level * np.array([0.5, 1.5, 1.0, 1.0])
        return Uncertainty(np.tile(steps[:, None] / 3, (1, 3)), steps, (np.ones((CHUNK, 5)),) * 3)

    def new_executor(self) -> CountingExecutor:
        self.executors.append(CountingExecutor())
        return self.executors[-1]


def _view(name: str, seen: CameraImage) -> View:
    try:
        return View.of(seen.image, seen.intrinsics, seen.depth)
    except InputError as error:
        raise InputError(f"Camera {name}: {error}") from None


class CountingExecutor(Executor):
    """Executes whole chunks, and counts the episodes that were begun after its first."""

    def __init__(self) -> None:
        self.resets = -1
        super().__init__(WHOLE_CHUNKS)

    def reset(self) -> None:
        self.resets += 1
        super().reset()
