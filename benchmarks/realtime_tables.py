"""The ways of acting that `realtime.py` plays, what it keeps of an episode, and the tables of both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from spatialvla.common.files import replacing
from spatialvla.evaluation.play.real_time import RealTimeExecutor
from spatialvla.evaluation.results.comparison import p_text
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.intervals import Pairs, wilson_interval
from spatialvla.evaluation.results.latency import Latency
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.execution import Execution
from spatialvla.simulation.libero.tasks import time_limit
from spatialvla.types import ActionChunk

SUITE = "libero_spatial"
LIMIT = time_limit(SUITE)
CHUNK = 4

WAYS = {
    "wait": Execution("chunk"),
    "async": Execution("async"),
    "prefix": Execution("async", commit=True),
    "ensemble": Execution("temporal"),
}
"""The arm holds still; goes on; goes on and tells the model; goes on and averages what chunks say."""


@dataclass(frozen=True)
class Episode:
    """late: control steps from each observation until its chunk takes over. held: steps in which the arm held still."""

    policy: str
    way: str
    late: int
    task: int
    state: int
    success: bool
    steps: int
    held: int
    decisions: int

    @property
    def id(self) -> tuple[str, str, str, int, int]:
        return self.policy, self.way, str(self.late), self.task, self.state

    @property
    def start(self) -> tuple[int, int]:
        return self.task, self.state


def read(path: Path) -> list[Episode]:
    """The episodes of a file; none where there is no file."""
    if not path.exists():
        return []
    columns = [field.name for field in fields(Episode)]
    return [
        Episode(**dict(zip(columns, row, strict=True))) for row in json.loads(path.read_text())["episodes"]
    ]


def write(path: Path, episodes: list[Episode]) -> None:
    """A line an episode, replaced as a whole."""
    columns = [field.name for field in fields(Episode)]
    rows = ",\n".join(json.dumps([getattr(each, name) for name in columns]) for each in episodes)
    with replacing(path) as partial:
        partial.write_text(f'{{"columns": {json.dumps(columns)},\n"episodes": [\n{rows}\n]}}\n')


def without_latency(results: Results) -> list[Episode]:
    """An evaluation's episodes of whole chunks of nano's 4 steps as those that wait for a chunk that is never late."""
    assert (results.suite, str(results.settings)) == (SUITE, "whole chunks")
    return [
        Episode(
            results.policy,
            "wait",
            0,
            each.task,
            each.start_state,
            each.success,
            each.steps,
            0,
            -(-each.steps // CHUNK),
        )
        for each in results.episodes
    ]


def tables(episodes: list[Episode]) -> str:
    """Successes by policy, latency and way, each way beside waiting as late, and what time alone would leave."""
    return "\n".join([*successes(episodes), "", *beside_waiting(episodes), "", *in_time(episodes)])


def successes(episodes: list[Episode]) -> Iterator[str]:
    """held: the share of the steps in which the arm stood still. steps: of the successes, on average."""
    yield "| policy | latency | way | successes | 95 % interval | steps | held |"
    yield "|---|---:|---|---:|---:|---:|---:|"
    for policy, late, way in cells(episodes):
        found = [each for each in episodes if (each.policy, each.late, each.way) == (policy, late, way)]
        won = [each.steps for each in found if each.success]
        low, high = wilson_interval(len(won), len(found))
        held = sum(each.held for each in found) / sum(each.steps for each in found)
        mean = f"{sum(won) / len(won):.0f}" if won else "–"
        yield (
            f"| {policy} | {late} | {way} | {len(won)}/{len(found)} | {low:.0%} – {high:.0%} | {mean} | {held:.0%} |"
        )


def beside_waiting(episodes: list[Episode]) -> Iterator[str]:
    """Episodes on the same start states: won and lost beside waiting as late, and beside no latency at all."""
    yield "| policy | latency | way | beside | episodes | won | lost | p |"
    yield "|---|---:|---|---|---:|---:|---:|---:|"
    for policy, late, way in cells(episodes):
        for other in dict.fromkeys((late, 0)):
            if (late, way) == (other, "wait"):
                continue
            pairs = paired(episodes, policy, (way, late), ("wait", other))
            if pairs.trials:
                beside = "waiting" if other else "no latency"
                yield (
                    f"| {policy} | {late} | {way} | {beside} | {pairs.trials} | {pairs.second} | {pairs.first} | "
                    f"{p_text(pairs.p_value)} |"
                )


def in_time(episodes: list[Episode]) -> Iterator[str]:
    """How many of the successes without latency would come in time, if a latency changed nothing else: computed."""
    yield "| policy | latency | in time, waiting | in time, going on |"
    yield "|---|---:|---:|---:|"
    for policy in dict.fromkeys(each.policy for each in episodes):
        won = [
            each.steps
            for each in episodes
            if each.success and (each.policy, each.late, each.way) == (policy, 0, "wait")
        ]
        for late in range(9):
            counts = (sum(ticks(way, late, steps) <= LIMIT for steps in won) for way in ("wait", "async"))
            yield f"| {policy} | {late} | " + " | ".join(f"{count}/{len(won)}" for count in counts) + " |"


def ticks(way: str, late: int, steps: int) -> int:
    """Control steps until nano has moved in so many."""
    executor = RealTimeExecutor(WAYS[way], Latency.always(late), EpisodeId(0, 0))
    chunk = ActionChunk(np.ones((CHUNK, 7)), np.zeros((CHUNK, 3), np.int64))
    moved = done = 0
    while True:
        for action in executor(chunk):
            done += 1
            moved += bool(action[:6].any())
            if moved == steps:
                return done


def paired(episodes: list[Episode], policy: str, cell: tuple[str, int], beside: tuple[str, int]) -> Pairs:
    """The outcomes of `beside`, first, and of `cell`, second, on the start states that both played."""
    one, other = (
        {
            each.start: each.success
            for each in episodes
            if (each.policy, each.way, each.late) == (policy, *which)
        }
        for which in (beside, cell)
    )
    return Pairs.of((one[start], other[start]) for start in sorted(one.keys() & other.keys()))


def cells(episodes: list[Episode]) -> list[tuple[str, int, str]]:
    """Policy, latency and way of all that was played, in the order of the ways."""
    order = list(WAYS)
    found = {(each.policy, each.late, each.way) for each in episodes}
    return sorted(found, key=lambda cell: (cell[0], cell[1], order.index(cell[2])))
