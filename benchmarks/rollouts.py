"""Nano in LIBERO: what speculation saves, and what approximations and latency cost, on the same start states.

    python benchmarks/rollouts.py --out runs/rollouts --minutes 9     # again and again, until it says that all is done

Each way of executing plays the same stored start states. An episode that is done is not repeated, so a run
may be stopped. Where a way is probed, decisions are decoded several times more: token by token, which is what
`time` is a multiple of, and with drafts of which only a part is known; all must say the same tokens. Writes
<out>/episodes/*.json, and of all that are there <out>/table.md and, of the probed ways,
<out>/speculation.json for `benchmarks/inference.py --speculation`.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from rollout_tables import KNOWN, LAST_CHUNK, WAYS, Rollout, report
from spatialvla.common.json_files import write_json

SUITE = "libero_spatial"


@dataclass(frozen=True)
class Options:
    out: Path = Path("runs/rollouts")
    policy: str = "nano"
    ways: tuple[str, ...] = tuple(WAYS)
    tasks: tuple[int, ...] = tuple(range(10))
    states: tuple[int, ...] = (0,)
    minutes: float = 9.0
    workers: int = 2


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


def play(policy: Any, environment: Any, way: str, task: int, state: int, limit: int) -> Rollout:
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
    return Rollout(
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
        """Listens in on the decoder meanwhile.

        known: which of a step's three tokens are left in the draft.
        """
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


if __name__ == "__main__":
    main(tyro.cli(Options))
