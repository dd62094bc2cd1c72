"""Nano in a LIBERO that does not wait: ways of acting, at several latencies, on the same start states.

    python benchmarks/realtime.py --minutes 60    # again and again, until it says that all is done
    python benchmarks/realtime.py --minutes 0 --out benchmarks/realtime.json    # the tables of what is there

Each way plays the same stored start states, as `spatialvla evaluate --realtime --latency N` does: N control
steps go by from an observation until its chunk takes over. Start states are gone through one after the
other, so that what is there can be compared at any time. An episode that is done is not played again, nor
one without latency that is in an evaluation's results (--evaluated runs/spatial/results.json).
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from realtime_tables import SUITE, WAYS, Episode, read, tables, without_latency, write
from spatialvla.evaluation.results.document import Results


@dataclass(frozen=True)
class Options:
    """cells: way and latency in control steps, such as wait:2; all of them unless given. minutes: 0 plays nothing."""

    out: Path = Path("runs/realtime.json")
    evaluated: Path | None = None
    policies: tuple[str, ...] = ("nano",)
    cells: tuple[str, ...] = ()
    tasks: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 7, 9)
    states: tuple[int, ...] = (0, 1, 2)
    minutes: float = 60.0


CELLS = ("wait:0", "ensemble:0", *(f"{way}:{late}" for late in (1, 2, 4, 6) for way in WAYS))


def main(options: Options) -> None:
    played = read(options.out)
    if options.evaluated:
        done = {episode.id for episode in played}
        played += [each for each in without_latency(Results.load(options.evaluated)) if each.id not in done]
        write(options.out, played)
    if options.minutes:
        played = play_missing(options, played)
    print(tables(played))


def play_missing(options: Options, played: list[Episode]) -> list[Episode]:
    """Plays until all is done or the time is up, and writes what is there after every episode."""
    # One core: the software renderer and the libraries would take all of them otherwise.
    os.environ.update(dict.fromkeys(("LP_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    os.environ.setdefault("MUJOCO_GL", "egl")
    import logging

    import torch

    from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
    from spatialvla.policy import Policy

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    deadline = time.time() + 60 * options.minutes
    policies = {name: Policy.from_pretrained(name) for name in options.policies}
    benchmark = LiberoBenchmark()
    conventions = benchmark.conventions(SUITE)
    done = {episode.id for episode in played}
    for state in options.states:
        for task in options.tasks:
            missing = [
                (name, *cell.split(":"))
                for cell in options.cells or CELLS
                for name in options.policies
                if (name, *cell.split(":"), task, state) not in done
            ]
            if not missing:
                continue
            limit = conventions.limit(task)
            with closing(benchmark.open(SUITE, task, conventions)) as environment:
                for name, way, late in missing:
                    if time.time() > deadline:
                        print("The time is up; the same command goes on.")
                        return played
                    began = time.time()
                    outcome = play(policies[name], environment, way, int(late), task, state, limit)
                    played.append(Episode(name, way, int(late), task, state, **outcome))
                    write(options.out, played)
                    print(f"{asdict(played[-1])} {time.time() - began:.0f} s", flush=True)
    print("All is done.")
    return played


def play(
    policy: Any, environment: Any, way: str, late: int, task: int, state: int, limit: int
) -> dict[str, Any]:
    """One episode: success, control steps, those of them in which the arm held still, and decisions."""
    from spatialvla.evaluation.play.real_time import RealTimeExecutor
    from spatialvla.evaluation.results.latency import Latency
    from spatialvla.evaluation.results.plan import EpisodeId

    executor = RealTimeExecutor(WAYS[way], Latency.always(late), EpisodeId(task, state))
    environment.start(state)
    step = held = decisions = 0
    success = False
    while step < limit and not success:
        (chunk,) = policy.decide([environment.observe(False)], [executor])
        decisions += 1
        for action in executor(chunk)[: limit - step]:
            success = bool(environment.step(action))
            step += 1
            held += not np.any(action[:6])
            if success:
                break
    return {"success": success, "steps": step, "held": held, "decisions": decisions}


if __name__ == "__main__":
    main(tyro.cli(Options))
