"""Which episodes an evaluation plays: tasks times start states, split into shards for several machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spatialvla.errors import InputError


class EpisodeId(NamedTuple):
    """One episode of a suite: the task's number and the start state's, both counted from 0."""

    task: int
    start_state: int


@dataclass(frozen=True)
class Shard:
    """Part `number` of `count` of an evaluation, counted from 1. Raises InputError for other numbers."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"Shards are 1/{self.count} to {self.count}/{self.count}, not {self}.")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/4` -> the second of four; InputError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found:
            raise InputError(f"A shard is written number/count, such as 2/4, not {text!r}.")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, episodes: Sequence[EpisodeId]) -> list[EpisodeId]:
        """This shard's stretch of the list: together they are the list, each within 1 of the same length.

        Stretches, not every nth, so that a shard builds the environments of few tasks.
        """
        start, stop = (len(episodes) * part // self.count for part in (self.number - 1, self.number))
        return list(episodes[start:stop])


def plan_episodes(
    tasks: Iterable[int], episodes_per_task: int, shard: Shard | None = None
) -> list[EpisodeId]:
    """Every episode asked for, task by task; episode i of a task starts from start state i."""
    episodes = [EpisodeId(task, state) for task in sorted(tasks) for state in range(episodes_per_task)]
    return shard.of(episodes) if shard else episodes
