"""A chunk asked for, and its answer: what passes between the protocols and the engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialvla.execution import Executor
from spatialvla.types import ActionChunk, Observation


@dataclass(frozen=True)
class PolicyRequest:
    """One chunk asked for.

    executor: of the episode; its last chunk is a guess of the next, which makes decoding faster.
    committed: (P, 3) tokens of steps already on their way to the robot; the chunk begins with them.
    timeout: seconds it may wait for the model.
    """

    observation: Observation
    executor: Executor
    committed: np.ndarray | None = None
    timeout: float = 30.0


@dataclass(frozen=True)
class Timings:
    """Where a request's time went, milliseconds. infer_ms: of its whole batch. batch: requests in that."""

    prepare_ms: float
    queue_ms: float
    infer_ms: float
    batch: int


@dataclass(frozen=True)
class Answer:
    """A request's chunk: finite, whole, not yet limited for a robot."""

    request: PolicyRequest
    chunk: ActionChunk
    timings: Timings
