"""Execution: which actions of the chunks are carried out, and what one robot's episode has to remember."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Real

from spatialvla.actions.grids import FREE
from spatialvla.errors import InputError
from spatialvla.types import ActionChunk
from spatialvla_client.schedule import ChunkRequest, Schedule

if TYPE_CHECKING:
    import torch

Mode = Literal["chunk", "receding", "ensemble", "temporal", "async"]


@dataclass(frozen=True)
class Execution:
    """How a chunk becomes motion.

    chunk executes all of it (open loop), receding its first steps before looking again, ensemble one action,
    averaged over what this and earlier chunks say of the present step, temporal the same with weights by age,
    as published for SimplerEnv. async is what a robot sees whose next chunk is inferred during the last one,
    in simulated time; the class AsynchronousLoop of spatialvla_client is the same in real time. While the first chunk
    is inferred the arm stands still: `spatialvla evaluate` counts these steps, `Policy.act` leaves them out.
    `spatialvla evaluate --realtime` plays every mode where chunks come late, see evaluation/play/real_time.py.
    """

    mode: Mode = "chunk"
    """Which of these."""

    steps: int = 1
    """Actions to execute of each chunk; for receding."""

    alpha: float = 0.1
    """How sharply predictions similar to the newest one are preferred, 0 is a plain mean; for ensemble."""

    temperature: float = -0.8
    """Of the weights by age, below 0 newer predictions count more; for temporal."""

    latency_steps: int = 1
    """Control steps from an observation until its chunk takes over; for async."""

    commit: bool = False
    """Tell the model the steps that are under way, so that its chunk begins with them; for async. Chunks then join
    smoothly, and nano goes on as it began instead of looking: docs/lab-notes/committed-steps.md."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InputError(
                f"Unknown execution mode {self.mode!r}; choose chunk, receding, ensemble, temporal or async."
            )
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}.")
        if self.latency_steps < 0:
            raise InputError(f"latency_steps must be 0 or more, got {self.latency_steps}.")
        if not (isfinite(self.alpha) and isfinite(self.temperature)):
            raise InputError(
                f"alpha and temperature must be numbers, got {self.alpha} and {self.temperature}."
            )


WHOLE_CHUNKS = Execution()

NO_TOKENS = np.full(3, FREE)
"""Of a step that no chunk says anything of: the arm stands still."""


class Executor:
    """One episode of one robot: feed it every new chunk, execute what it returns.

    Several share one policy, see `Policy.decide`. depth, depth_age: the model's last depth maps of this episode,
    (S, S) meters each, by the number of the camera, and how many decisions were made since they were estimated, that
    one included. They are there where several decisions share them, or keeps_depth is set because somebody wants to
    see them.
    """

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.keeps_depth = False
        self.reset()

    def reset(self) -> None:
        """Starts a new episode."""
        self._history: list[np.ndarray] = []
        self._tokens: np.ndarray | None = None
        self._executed = 0
        self._schedule = Schedule()
        self._request: ChunkRequest | None = None
        self.depth: dict[int, torch.Tensor] = {}
        self.depth_age = 0

    def __call__(self, chunk: ActionChunk) -> Float[np.ndarray, "k 7"]:
        """The actions of `execute`."""
        return self.execute(chunk).actions

    def execute(self, chunk: ActionChunk) -> ActionChunk:
        """What to execute before the next inference: k actions, each beside the tokens that it came from.

        An average of several chunks has the newest one's tokens, a step that stands still has −1. The uncertainty
        stays that of the whole new chunk. Raises InputError for a chunk that is over before it comes.
        """
        match self.execution.mode:
            case "chunk":
                actions = chunk.actions
            case "receding":
                actions = chunk.actions[: self.execution.steps]
            case "ensemble":
                actions = similarity_ensemble(self._present(chunk.actions), self.execution.alpha)[None]
            case "temporal":
                actions = temporal_ensemble(self._present(chunk.actions), self.execution.temperature)[None]
            case "async":
                return self._asynchronous(chunk)
        self._keep(chunk, len(actions))
        return ActionChunk(actions, chunk.tokens[: len(actions)], chunk.uncertainty)

    def remember(self, chunk: ActionChunk, executed: int) -> None:
        """What the next draft comes from, where another loop decides what is executed.

        What this one had planned by earlier chunks is over.
        """
        self._history, self._schedule, self._request = [], Schedule(), None
        self._keep(chunk, executed)

    def _keep(self, chunk: ActionChunk, executed: int) -> None:
        self._tokens, self._executed = chunk.tokens, executed

    def committed(self) -> Int[np.ndarray, "P 3"] | None:
        """Tokens of the steps that are under way at the next observation, None where none are."""
        return self._request.committed if self._request and self.execution.commit else None

    def draft(self, committed: Int[np.ndarray, "P 3"] | None = None) -> Int[np.ndarray, "T 3"] | None:
        """A guess of the next chunk's tokens, None before the first.

        The last chunk shifted by the steps executed since, its last step repeated. committed: steps that are
        already under way; where they are found in the last chunk, they tell how far it has been executed.
        """
        if self._tokens is None:
            return None
        shift = self._executed
        if committed is not None and len(committed):
            shift = _first_step(committed, self._tokens, otherwise=shift)
        steps = np.arange(len(self._tokens)) + shift
        return self._tokens[np.minimum(steps, len(self._tokens) - 1)]

    def _present(self, actions: Float[np.ndarray, "T 7"]) -> Float[np.ndarray, "N 7"]:
        """What this and earlier chunks say of the present step, newest first."""
        self._history = [*self._history, actions][-len(actions) :]
        # The chunk made k steps ago says of the present what stands at its index k.
        return np.stack([past[age] for age, past in enumerate(reversed(self._history))])

    def _asynchronous(self, chunk: ActionChunk) -> ActionChunk:
        """What is left of the old chunk until this one comes, and then as much of it as there is time for.

        The robot looks again when the steps that are left last just until the next chunk comes.
        """
        latency, schedule = self.execution.latency_steps, self._schedule
        if latency >= len(chunk.actions):
            raise InputError(f"A chunk of {len(chunk.actions)} steps is over before a latency of {latency}.")
        # The robot waits for the first chunk.
        steps = [self._advance() for _ in range(latency if schedule.started else 0)]
        request = self._request or schedule.request(0)
        schedule.arrive(request, chunk)
        while schedule.remaining > latency:
            steps.append(self._advance())
        self._request = schedule.request(latency)
        self._keep(chunk, self._request.moved - request.moved)
        actions, tokens = zip(*steps, strict=True)
        return ActionChunk(np.stack(actions), np.stack(tokens), chunk.uncertainty)

    def _advance(self) -> tuple[Float[np.ndarray, "7"], Int[np.ndarray, "3"]]:
        """The present step of the schedule, and its tokens."""
        tokens = self._schedule.next_tokens
        return self._schedule.advance(), NO_TOKENS if tokens is None else tokens


def temporal_ensemble(present: Float[np.ndarray, "N 7"], temperature: float) -> Float[np.ndarray, "7"]:
    """SimplerEnv's ensemble (utils/action/action_ensemble.py): the i-th oldest weighs exp(-temperature * i).

    present: what chunks say of the present step, newest first. The gripper is averaged along, and so opens or closes
    once most of the weight is for it.
    """
    # The newest comes first here: by age, the same weights are exp(temperature * age).
    mean: np.ndarray = _softmax(np.arange(len(present)), temperature) @ present
    return mean


def similarity_ensemble(present: Float[np.ndarray, "N 7"], alpha: float) -> Float[np.ndarray, "7"]:
    """The adaptive ensemble of CogACT (arXiv 2411.19650): weights exp(alpha * cosine similarity to the newest).

    present: what chunks say of the present step, newest first.
    """
    newest = present[0]
    norms = np.linalg.norm(present, axis=1) * np.linalg.norm(newest)
    similarity = present @ newest / np.maximum(norms, 1e-7)
    mean: np.ndarray = _softmax(similarity, alpha) @ present
    mean[6] = newest[6]
    return mean


def _softmax(values: Real[np.ndarray, " N"], factor: float) -> Float[np.ndarray, " N"]:
    """Weights proportional to exp(factor * value) that sum to 1, however large the factor."""
    largest = values.max() if factor > 0 else values.min()
    # Where this product overflows, it does so to minus infinity, which weighs nothing.
    with np.errstate(over="ignore"):
        weights = np.exp(factor * (values - largest))
    shares: np.ndarray = weights / weights.sum()
    return shares


def _first_step(committed: np.ndarray, tokens: np.ndarray, otherwise: int) -> int:
    """The first step of a chunk (T, 3) from which on the committed steps (P, 3) stand in it."""
    for step in range(len(tokens) - len(committed) + 1):
        if np.array_equal(tokens[step : step + len(committed)], committed):
            return step
    return otherwise
