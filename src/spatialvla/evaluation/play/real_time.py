"""An episode in a world that does not wait: what a robot does while its next chunk is inferred, and with it then."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from spatialvla.evaluation.results.latency import Latency
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.execution import NO_TOKENS, Execution, Executor, similarity_ensemble, temporal_ensemble
from spatialvla.types import ActionChunk


class RealTimeExecutor(Executor):
    """One episode in simulated time: a chunk takes over some control steps after its observation.

    What it returns for a chunk is all that the robot does from that chunk's observation until the next one. While a
    chunk is inferred the robot goes on with what is left of the earlier ones, which depends on the mode:

    - chunk, receding: nothing is left, because the robot looks again once it has done all of a chunk, or its first
      steps. So it waits.
    - async: it looks again when what is left lasts just until the chunk is expected, or as soon as it can. The steps
      of the new chunk that are over by then are dropped. With `commit` the model is told of the steps under way.
    - ensemble, temporal: it looks again one step after a chunk took over, at the latest, and executes the average of
      what all chunks that have come say of the present step.

    Where nothing is left the arm holds still: no motion, and the gripper as it was last told. Actions are relative
    motions, so a chunk goes on where the robot stopped, and skips only steps in which it moved.
    """

    def __init__(
        self, execution: Execution, latency: Latency, episode: EpisodeId, gripper: float = 1.0
    ) -> None:
        """episode: which latencies are drawn. gripper: how it is held until it is told something, 1 = open."""
        self._latency, self._episode, self._at_first = latency, episode, gripper
        self._expected = latency.expected
        super().__init__(execution)

    def reset(self) -> None:
        """Starts the episode, or starts it again."""
        super().reset()
        self._latencies = self._latency.draw(self._episode)
        self._chunks: list[tuple[int, ActionChunk]] = []
        self._moved, self._gripper = 0, self._at_first

    def execute(self, chunk: ActionChunk) -> ActionChunk:
        """What the robot does from this chunk's observation until its next one, at least one step."""
        seen, size = self._moved, len(chunk.actions)
        steps = [self._step() for _ in range(next(self._latencies))]
        self._chunks = [*self._chunks, (seen, chunk)][-size:]
        while self._remaining > self._looks_again_at(size):
            steps.append(self._step())
        self.remember(chunk, self._moved - seen)
        actions, tokens = zip(*steps, strict=True)
        return ActionChunk(np.stack(actions), np.stack(tokens), chunk.uncertainty)

    def committed(self) -> Int[np.ndarray, "P 3"] | None:
        """Tokens of the steps that will be over when the next chunk is expected, None where none are."""
        if self.execution.mode != "async" or not self.execution.commit or self._remaining == 0:
            return None
        seen, newest = self._chunks[-1]
        return newest.tokens[self._moved - seen :][: self._expected]

    @property
    def _remaining(self) -> int:
        """Steps that are left of the newest chunk."""
        if not self._chunks:
            return 0
        seen, newest = self._chunks[-1]
        steps = self.execution.steps if self.execution.mode == "receding" else len(newest.actions)
        return max(0, min(steps, len(newest.actions)) - (self._moved - seen))

    def _looks_again_at(self, size: int) -> int:
        """How many steps may be left when the robot looks again. size: steps of a chunk."""
        match self.execution.mode:
            case "async":
                # With a whole chunk left, the next one could be over before it comes.
                return min(self._expected, size - 1)
            case "ensemble" | "temporal":
                return size - 1
        return 0

    def _step(self) -> tuple[Float[np.ndarray, "7"], Int[np.ndarray, "3"]]:
        """The action of the present step, and its tokens."""
        if self._remaining == 0:
            return np.array([0, 0, 0, 0, 0, 0, self._gripper]), NO_TOKENS
        newest_seen, newest = self._chunks[-1]
        tokens = newest.tokens[self._moved - newest_seen]
        ages = [(self._moved - seen, chunk.actions) for seen, chunk in reversed(self._chunks)]
        present = np.stack([actions[age] for age, actions in ages if age < len(actions)])
        match self.execution.mode:
            case "ensemble":
                action = similarity_ensemble(present, self.execution.alpha)
            case "temporal":
                action = temporal_ensemble(present, self.execution.temperature)
            case _:
                action = present[0]
        self._moved += 1
        self._gripper = action[6]
        return action, tokens
