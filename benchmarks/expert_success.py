"""How often the scripted expert succeeds, with and without disturbances, from freshly sampled start states.

python benchmarks/expert_success.py --episodes 20
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from spatialvla.simulation.libero.demonstration import demonstrate
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.tasks import tasks


@dataclass(frozen=True)
class Options:
    suite: str = "libero_spatial"
    episodes: int = 20
    seed: int = 100
    tasks: tuple[int, ...] = ()  # all unless given


def main(options: Options) -> None:
    print("| task | calm | steps | disturbed | steps |\n|---|---|---|---|---|")
    suite = tasks(options.suite)
    for number in options.tasks or range(len(suite)):
        task = suite[number]
        env = LiberoEnv(task)
        expert = LiberoExpert(env)
        cells = [f"{number} {task.language}"]
        for disturbed in (False, True):
            lengths = []
            for episode in range(options.episodes):
                rng = np.random.default_rng([options.seed, number, episode])
                done = demonstrate(env, expert, rng, disturbed, draw=False)
                lengths += [len(done.actions)] if done else []
            cells += [f"{len(lengths)}/{options.episodes}", f"{np.mean(lengths):.0f} (≤ {max(lengths)})"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
