"""What one worker plays at a time: some episodes of one task, in one environment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spatialvla.evaluation.results.plan import EpisodeId


@dataclass(frozen=True)
class Job:
    """Episodes of one task, played in one environment. start_states: numbers of the stored states."""

    suite: str
    task: int
    start_states: tuple[int, ...]


def plan_jobs(suite: str, episodes: Iterable[EpisodeId], workers: int) -> list[Job]:
    """One job a task, as building an environment takes long; more only where workers would idle."""
    states: dict[int, list[int]] = {}
    for episode in episodes:
        states.setdefault(episode.task, []).append(episode.start_state)
    pieces = -(-workers // len(states)) if states else 1
    return [
        Job(suite, task, tuple(numbers[piece::pieces]))
        for task, numbers in states.items()
        for piece in range(min(pieces, len(numbers)))
    ]
