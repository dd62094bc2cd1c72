"""The ways of executing that `rollouts.py` plays, what it keeps of an episode, and the tables of both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.common.json_files import write_json
from spatialvla.evaluation.results.intervals import wilson_interval
from spatialvla.execution import Execution

LAST_CHUNK = "last chunk"
KNOWN = {
    "nothing": (False, False, False),
    "gripper of the last chunk": (False, False, True),
    "motion of the last chunk": (True, True, False),
}
"""Which of a step's tokens are left in a draft, by its name."""


@dataclass(frozen=True)
class Way:
    """execution, options of Policy; probed: every so-many-th decision is decoded in all ways, 0 for none."""

    execution: Execution = field(default_factory=Execution)
    options: dict[str, Any] = field(default_factory=dict)
    probed: int = 0


WAYS = {
    "chunk": Way(probed=1),
    "receding 1": Way(Execution("receding", steps=1), probed=4),
    "receding 2": Way(Execution("receding", steps=2), probed=4),
    "ensemble": Way(Execution("ensemble"), probed=4),
    "tolerance 1": Way(options={"tolerance": 1}),
    "depth every 4": Way(options={"depth_every": 4}),
    "async 1": Way(Execution("async", latency_steps=1, commit=True)),
    "async 1, no prefix": Way(Execution("async", latency_steps=1)),
    "async 2": Way(Execution("async", latency_steps=2, commit=True)),
    "async 2, no prefix": Way(Execution("async", latency_steps=2)),
}


@dataclass(frozen=True)
class Rollout:
    """passes, accepted: of each decision by what was known of its draft. seconds: of each decision, by way of decoding.

    same: whether all ways of decoding said the same tokens, at every decision.
    motion: the translation of each step, in the dataset's units. joins: steps at which a new chunk took over.
    """

    way: str
    task: int
    state: int
    success: bool
    steps: int
    decisions: int
    passes: dict[str, list[int]]
    accepted: dict[str, list[int]]
    seconds: dict[str, list[float]]
    same: bool
    motion: list[list[float]]
    joins: list[int]


def report(out: Path) -> None:
    """speculation.json and table.md of the episodes that are there."""
    played = [Rollout(**json.loads(path.read_text())) for path in sorted(out.glob("episodes/*.json"))]
    ways = {way: found for way in WAYS if (found := [e for e in played if e.way == way])}
    speculation = {
        way: {
            "same": all(e.same for e in found),
            "passes": {name: joined(found, "passes", name) for name in found[0].passes},
            "accepted": {name: joined(found, "accepted", name) for name in found[0].accepted},
        }
        for way, found in ways.items()
        if WAYS[way].probed
    }
    write_json(out / "speculation.json", speculation)
    table = "\n".join([*outcomes(ways), "", *passes(ways)]) + "\n"
    (out / "table.md").write_text(table)
    print(table)


def outcomes(ways: dict[str, list[Rollout]]) -> Iterator[str]:
    yield "| way | successes | rate | 95 % interval | outcome as chunk's | jump at joins | elsewhere |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    chunks = {(e.task, e.state): e.success for e in ways.get("chunk", [])}
    for way, found in ways.items():
        wins, count = sum(e.success for e in found), len(found)
        low, high = wilson_interval(wins, count)
        paired = [e.success == chunks[e.task, e.state] for e in found if (e.task, e.state) in chunks]
        at_joins, elsewhere = jumps(found)
        yield (
            f"| {way} | {wins}/{count} | {wins / count:.0%} | {low:.0%} – {high:.0%} | "
            f"{sum(paired)}/{len(paired)} | {at_joins} | {elsewhere} |"
        )


def passes(ways: dict[str, list[Rollout]]) -> Iterator[str]:
    yield "| way | draft | chunks | passes | of them p95 | accepted of 12 | time | same tokens |"
    yield "|---|---|---:|---:|---:|---:|---:|---|"
    for way, found in ways.items():
        plain = joined(found, "seconds", "token by token")
        for name in found[0].passes:
            counts, accepted = joined(found, "passes", name), joined(found, "accepted", name)
            apart = max(1, WAYS[way].probed) if name == LAST_CHUNK else 1
            seconds = [value for e in found for value in e.seconds[name][::apart]]
            time_ratio = f"{np.median(np.array(seconds) / plain):.2f}" if plain else "–"
            same = ("yes" if all(e.same for e in found) else "NO") if plain else "–"
            yield (
                f"| {way} | {name} | {len(counts)} | {np.mean(counts):.2f} | {np.quantile(counts, 0.95):.0f} | "
                f"{np.mean(accepted):.2f} | {time_ratio} | {same} |"
            )


def jumps(episodes: list[Rollout]) -> list[str]:
    """How far the translation changes from one step to the next, where chunks join and elsewhere: mean distances."""
    parts: list[list[float]] = [[], []]
    for e in episodes:
        changes = np.linalg.norm(np.diff(np.array(e.motion), axis=0), axis=1)
        for step, change in enumerate(changes, 1):
            parts[step not in e.joins].append(float(change))
    return [f"{np.mean(part):.2f}" if part else "–" for part in parts]


def joined(episodes: list[Rollout], what: str, name: str) -> list[Any]:
    return [value for e in episodes for value in getattr(e, what).get(name, [])]
