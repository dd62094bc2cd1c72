"""Made-up results, for tests of what is done with results."""

from __future__ import annotations

from dataclasses import replace

from fakes import INSTRUCTIONS, conventions

from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.plan import Shard
from spatialvla.evaluation.results.policy_settings import PolicySettings


def some_results(wins: str, suite: str = "libero_spatial", **changes: object) -> Results:
    """Outcomes as one letter an episode, `+`, `-` or `~` for partial success; spaces part the tasks."""
    rows = wins.split()
    episodes = tuple(
        EpisodeResult(task, state, letter == "+", 10, 1.0, None, letter != "-" if "~" in wins else None)
        for task, row in enumerate(rows)
        for state, letter in enumerate(row)
    )
    results = Results(
        suite=suite,
        policy="nano",
        checkpoint="0123456789abcdef",
        depth="estimate",
        episodes_per_task=max(map(len, rows)),
        tasks=dict(enumerate(INSTRUCTIONS[: len(rows)])),
        conventions=conventions(),
        versions={"torch": "2.13.0"},
        started="2026-01-02T03:04:05+00:00",
        seconds=12.0,
        episodes=episodes,
        settings=PolicySettings(),
    )
    return replace(results, **changes)


def shards(whole: Results, count: int) -> list[Results]:
    """The same evaluation in as many parts."""
    parts = (replace(whole, shard=Shard(number, count)) for number in range(1, count + 1))
    return [
        replace(part, episodes=tuple(e for e in whole.episodes if e.id in set(part.planned)), seconds=1.0)
        for part in parts
    ]
