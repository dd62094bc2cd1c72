"""What a demonstration costs where only some of its steps are drawn.

python benchmarks/draw_every.py
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import tyro

from spatialvla.simulation.libero.demonstration import demonstrate
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.tasks import tasks
from spatialvla.simulation.libero.viewpoints import viewpoints
from spatialvla.simulation.recording.config import Views


@dataclass(frozen=True)
class Options:
    suites: tuple[str, ...] = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    tasks: tuple[int, ...] = (0, 2)
    every: tuple[int, ...] = (1, 2, 4, 6, 8)
    episodes: int = 2
    seed: int = 7


def main(options: Options) -> None:
    seconds, steps = dict.fromkeys(options.every, 0.0), dict.fromkeys(options.every, 0)
    for suite in options.suites:
        for number in options.tasks:
            env = LiberoEnv(tasks(suite)[number], rendering="fast")
            expert = LiberoExpert(env)
            others = viewpoints(env, np.random.default_rng(options.seed), Views(wrist=True))
            for episode in range(options.episodes):
                for every in options.every:
                    rng, start = np.random.default_rng([options.seed, number, episode]), time.process_time()
                    done = demonstrate(env, expert, rng, draw_every=every, others=others)
                    seconds[every] += time.process_time() - start
                    steps[every] += 0 if done is None else len(done.drawn)
            env.close()
    print("| drawn every | processor time | pictures of each camera |\n|---|---:|---:|")
    for every in options.every:
        print(f"| {every} | {seconds[every] / seconds[options.every[0]]:.2f} | {steps[every]} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
