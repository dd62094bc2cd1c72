"""Keeps a few decisions of each task's first episode, so that the report can show them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialvla.types import ActionChunk, Observation


@dataclass(frozen=True)
class Moment:
    """One decision: at which step, on what, and what came out."""

    step: int
    observation: Observation
    chunk: ActionChunk


class MomentKeeper:
    """Collects the decisions of start state 0 and thins them out evenly when the episode ends.

    per_episode: how many stay. max_tasks: later tasks are not kept, so that a report of 90 tasks stays small.
    """

    def __init__(self, per_episode: int, max_tasks: int) -> None:
        self._per_episode = per_episode
        self._max_tasks = max_tasks
        self._open: dict[int, list[Moment]] = {}
        self._kept: dict[int, tuple[Moment, ...]] = {}

    @property
    def kept(self) -> dict[int, tuple[Moment, ...]]:
        """Task number -> its moments in order, of the episodes that have ended."""
        return self._kept

    def decision(self, task: int, start_state: int, moment: Moment) -> None:
        known = task in self._open or len(self._open) < self._max_tasks
        if start_state == 0 and known and self._per_episode:
            self._open.setdefault(task, []).append(moment)

    def ended(self, task: int, start_state: int) -> None:
        if start_state == 0 and task in self._open:
            moments = self._open[task]
            # The first decision, then evenly on; nothing is decided at the very end.
            chosen = np.linspace(0, len(moments), self._per_episode, endpoint=False).astype(int)
            self._kept[task] = tuple(moments[index] for index in dict.fromkeys(chosen.tolist()))
            self._open[task] = []
