"""Nano in LIBERO: what speculation saves, and what approximations and latency cost, on the same start states.

    python benchmarks/rollouts.py --out runs/rollouts --minutes 9     # again and again, until it says that all is done

Each way of executing plays the same stored start states. An episode that is done is not repeated, so a run may be
stopped. Where a way is probed, decisions are decoded several times more: token by token, which is what `time` is a
multiple of, and with drafts of which only a part is known; all must say the same tokens. Writes <out>/episodes/*.json,
and of all that are there <out>/table.md and, of the probed ways, <out>/speculation.json for
`benchmarks/inference.py --speculation`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from spatialvla.common.json_files import write_json
from spatialvla.evaluation.results.intervals import wilson_interval
from spatialvla.execution import Execution

SUITE = "libero_spatial"
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
    "async 1": Way(Execution("async", latency_steps=1)),
    "async 1, no prefix": Way(Execution("async", latency_steps=1, commit=False)),
    "async 2": Way(Execution("async", latency_steps=2)),
    "async 2, no prefix": Way(Execution("async", latency_steps=2, commit=False)),
}


@dataclass(frozen=True)
class Options:
    out: Path = Path("runs/rollouts")
    policy: str = "nano"
    ways: tuple[str, ...] = tuple(WAYS)
    tasks: tuple[int, ...] = tuple(range(10))
    states: tuple[int, ...] = (0,)
    minutes: float = 9.0
    workers: int = 2


@dataclass(frozen=True)
class Episode:
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


def main(options: Options) -> None:
    (options.out / "episodes").mkdir(parents=True, exist_ok=True)
    deadline = time.time() + 60 * options.minutes
    # One core for each process: the software renderer and the libraries would take all of them otherwise.
    os.environ.update(dict.fromkeys(("LP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ.setdefault("MUJOCO_GL", "egl")
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    for task in options.tasks:
        if any(True for _ in missing(options, task)):
            tasks.put(task)
    workers = [context.Process(target=work, args=(options, tasks, deadline)) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    left = sum(1 for task in options.tasks for _ in missing(options, task))
    print(f"{left} episodes are left to play." if left else "All is done.")
    report(options.out)


def missing(options: Options, task: int) -> Iterator[tuple[str, int]]:
    for state in options.states:
        for way in options.ways:
            if not file_of(options.out, way, task, state).exists():
                yield way, state


def file_of(out: Path, way: str, task: int, state: int) -> Path:
    return out / "episodes" / f"{way.replace(', ', '-').replace(' ', '_')}-task{task}-state{state}.json"


def work(options: Options, tasks: Any, deadline: float) -> None:
    """Plays one task after the other until the time is up."""
    import logging
    import queue

    import torch

    from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
    from spatialvla.model.spatialvla import SpatialVLA
    from spatialvla.policy import Policy
    from spatialvla.processor import Processor

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    model, processor = SpatialVLA.from_pretrained(options.policy), Processor.from_pretrained(options.policy)
    policies = {
        way: Policy(model, processor, execution=WAYS[way].execution, **WAYS[way].options)
        for way in options.ways
    }
    benchmark = LiberoBenchmark()
    conventions = benchmark.conventions(SUITE)
    while time.time() < deadline - 60:
        try:
            task = tasks.get(timeout=1)
        except queue.Empty:
            return
        environment = benchmark.open(SUITE, task, conventions)
        for way, state in missing(options, task):
            if time.time() > deadline:
                return
            began = time.time()
            played = play(policies[way], environment, way, task, state, conventions.time_limit)
            write_json(file_of(options.out, way, task, state), asdict(played))
            print(
                f"{way}, task {task}, state {state}: {'success' if played.success else 'failure'} after "
                f"{played.steps} steps, {time.time() - began:.0f} s",
                flush=True,
            )
        environment.close()


def play(policy: Any, environment: Any, way: str, task: int, state: int, limit: int) -> Episode:
    executor = policy.new_executor()
    recorder = Recorder(policy, WAYS[way].probed)
    environment.start(state)
    step, success = 0, False
    motion: list[list[float]] = []
    joins: list[int] = []
    execution = policy.execution
    while step < limit and not success:
        observation = environment.observe(False)
        chunk = recorder.decide(observation, executor)
        if step:
            joins.append(step + (execution.latency_steps if execution.mode == "async" else 0))
        for action in executor(chunk)[: limit - step]:
            motion.append(action[:3].round(4).tolist())
            success = bool(environment.step(action))
            step += 1
            if success:
                break
    return Episode(
        way, task, state, success, step, recorder.decisions,
        recorder.passes, recorder.accepted, recorder.seconds, recorder.same, motion, joins,
    )  # fmt: skip


class Recorder:
    """Decides with a policy, and writes down what it took."""

    def __init__(self, policy: Any, probed: int) -> None:
        self.policy, self.probed = policy, probed
        self.decisions, self.same = 0, True
        self.passes: dict[str, list[int]] = {}
        self.accepted: dict[str, list[int]] = {}
        self.seconds: dict[str, list[float]] = {}

    def decide(self, observation: Any, executor: Any) -> Any:
        committed, draft = executor.committed(), executor.draft()
        (chunk,) = self._measured(LAST_CHUNK, lambda: self.policy.decide([observation], [executor]))
        self.decisions += 1
        if self.probed and (self.decisions - 1) % self.probed == 0:
            drafts = {"token by token": None, **{name: [draft] for name in KNOWN}}
            for name, given in drafts.items():
                probe = partial(self.policy.predict, [observation], committed=[committed], drafts=given)
                (again,) = self._measured(name, probe, KNOWN.get(name))
                self.same &= np.array_equal(again.tokens, chunk.tokens)
        return chunk

    def _measured(self, name: str, decide: Any, known: Sequence[bool] | None = None) -> Any:
        """Listens in on the decoder meanwhile. known: which of a step's three tokens are left in the draft."""
        model, decoded = self.policy.model, []
        decode = model.decode

        def recorded(*args: Any, **options: Any) -> Any:
            if known is not None:
                drafts = options["draft_ids"].unflatten(1, (-1, 3))
                options["draft_ids"] = drafts.where(drafts.new_tensor(known).bool(), -1).flatten(1)
            decoded.append(decode(*args, **options))
            return decoded[-1]

        model.decode = recorded
        began = time.perf_counter()
        try:
            chunks = decide()
        finally:
            del model.decode
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)
        self.passes.setdefault(name, []).append(decoded[0].passes)
        self.accepted.setdefault(name, []).append(int(decoded[0].accepted[0]))
        return chunks


def report(out: Path) -> None:
    """speculation.json and table.md of the episodes that are there."""
    played = [Episode(**json.loads(path.read_text())) for path in sorted(out.glob("episodes/*.json"))]
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


def outcomes(ways: dict[str, list[Episode]]) -> Iterator[str]:
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


def passes(ways: dict[str, list[Episode]]) -> Iterator[str]:
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


def jumps(episodes: list[Episode]) -> list[str]:
    """How far the translation changes from one step to the next, where chunks join and elsewhere: mean distances."""
    parts: list[list[float]] = [[], []]
    for e in episodes:
        changes = np.linalg.norm(np.diff(np.array(e.motion), axis=0), axis=1)
        for step, change in enumerate(changes, 1):
            parts[step not in e.joins].append(float(change))
    return [f"{np.mean(part):.2f}" if part else "–" for part in parts]


def joined(episodes: list[Episode], what: str, name: str) -> list[Any]:
    return [value for e in episodes for value in getattr(e, what).get(name, [])]


if __name__ == "__main__":
    main(tyro.cli(Options))
