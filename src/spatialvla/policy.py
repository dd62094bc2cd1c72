"""Policy: an observation in, the actions to execute out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.types import ActionChunk, Batch, Observation

Mode = Literal["chunk", "receding", "ensemble"]


@dataclass(frozen=True)
class Execution:
    """How a chunk becomes motion.

    mode: "chunk" executes all of it (open loop), "receding" its first `steps` actions before looking again,
    "ensemble" one action, averaged over what this and earlier chunks say of the present step.
    alpha: how sharply the ensemble prefers predictions similar to the newest one (0: a plain mean).
    """

    mode: Mode = "chunk"
    steps: int = 1
    alpha: float = 0.1

    def __post_init__(self) -> None:
        if self.mode not in ("chunk", "receding", "ensemble"):
            raise InputError(f"Unknown execution mode {self.mode!r}; choose chunk, receding or ensemble.")
        if self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}.")


class Executor:
    """One episode's execution state: feed it every new chunk, execute what it returns."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self._history: list[np.ndarray] = []

    def reset(self) -> None:
        """Starts a new episode."""
        self._history = []

    def __call__(self, chunk: ActionChunk) -> np.ndarray:
        """The actions (k, 7) to execute before the next inference."""
        match self.execution.mode:
            case "chunk":
                return chunk.actions
            case "receding":
                return chunk.actions[: self.execution.steps]
            case "ensemble":
                return self._ensemble(chunk.actions)[None]

    def _ensemble(self, actions: np.ndarray) -> np.ndarray:
        """The adaptive ensemble of CogACT (arXiv 2411.19650): weights exp(alpha * cosine similarity)."""
        self._history = [*self._history, actions][-len(actions) :]
        # The chunk made k steps ago says of the present what stands at its index k.
        present = np.stack([past[age] for age, past in enumerate(reversed(self._history))])
        newest = present[0]
        norms = np.linalg.norm(present, axis=1) * np.linalg.norm(newest)
        similarity = present @ newest / np.maximum(norms, 1e-7)
        weights = np.exp(self.execution.alpha * similarity)
        mean = weights @ present / weights.sum()
        mean[6] = newest[6]
        return mean


class Policy:
    """A model and its processor, driving a robot."""

    def __init__(
        self,
        model: SpatialVLA,
        processor: Processor,
        *,
        dataset: str | None = None,
        execution: Execution = Execution(),
        prompt: str = "{instruction}",
        temperature: float = 0.0,
    ) -> None:
        """dataset: whose statistics scale the actions; may be left out where the checkpoint has only one.

        prompt: a template around the lower-cased instruction; models are trained on the instruction alone.
        Raises CheckpointError where model and processor do not belong together.
        """
        first, end = model.config.grammar[0].start, model.config.grammar[2].stop
        ranges = [(rows.start - first, rows.stop - first) for rows in model.config.grammar]
        if list(processor.grid.ranges) != ranges or processor.action_token_begin_idx != first:
            raise CheckpointError(
                f"The model has action tokens {first} to {end - 1} in kinds {ranges}, the processor's grid has "
                f"{list(processor.grid.ranges)} from {processor.action_token_begin_idx}; they do not belong together."
            )
        if processor.action_chunk_size != model.config.action_chunk_size:
            raise CheckpointError(
                f"The model's chunks have {model.config.action_chunk_size} steps, the processor's "
                f"{processor.action_chunk_size}; they do not belong together."
            )
        if "{instruction}" not in prompt:
            raise InputError(f"The prompt template {prompt!r} lacks {{instruction}}.")
        if dataset is None and len(processor.statistics) == 1:
            dataset = next(iter(processor.statistics))
        processor.dataset_statistics(dataset)
        self.model = model.eval()
        self.processor = processor
        self.dataset = dataset
        self.execution = execution
        self.prompt = prompt
        self.temperature = temperature
        self._executor = self.new_executor()

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        dataset: str | None = None,
        execution: Execution = Execution(),
        prompt: str = "{instruction}",
        temperature: float = 0.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Policy:
        """Loads a checkpoint folder, a shipped model ("nano") or a Hub id."""
        return cls(
            SpatialVLA.from_pretrained(path_or_id, dtype=dtype, device=device),
            Processor.from_pretrained(path_or_id),
            dataset=dataset,
            execution=execution,
            prompt=prompt,
            temperature=temperature,
        )

    def new_executor(self) -> Executor:
        """Execution state for one more episode beside the policy's own."""
        return Executor(self.execution)

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """A chunk for each observation, in one batch; keeps no state.

        Raises InputError if some observations have depth and others do not.
        """
        batch = self._batch(observations)
        tokens = self.model.generate(batch, temperature=self.temperature)
        actions = self.processor.decode(tokens, self.dataset)
        numbers = self.processor.token_numbers(tokens)
        return [ActionChunk(a, n) for a, n in zip(actions, numbers, strict=True)]

    def depth(self, observations: Sequence[Observation]) -> np.ndarray:
        """The depth the model works with, its own estimate or the sensor's: (B, S, S) float32 metres.

        S is the side of the model's square image, which shows all of the observation's image.
        """
        return self.model.depth(self._batch(observations)).float().cpu().numpy()

    def _batch(self, observations: Sequence[Observation]) -> Batch:
        depths = [o.depth for o in observations if o.depth is not None]
        if depths and len(depths) != len(observations):
            raise InputError("Either all observations of a batch bring depth or none does.")
        batch = self.processor(
            [o.image for o in observations],
            [self.prompt.format(instruction=o.instruction.lower()) for o in observations],
            self.dataset,
            intrinsics=[o.intrinsics for o in observations],
            depth=depths or None,
        )
        return batch.to(self.model.device)

    def act(self, observation: Observation) -> ActionChunk:
        """The actions to execute before the next call, as `execution` asks, with the predicted tokens."""
        (chunk,) = self.predict([observation])
        actions = self._executor(chunk)
        return ActionChunk(actions, chunk.tokens[: len(actions)])

    def reset(self) -> None:
        """Starts a new episode: forgets the chunks of the last one."""
        self._executor.reset()
