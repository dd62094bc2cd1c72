"""How often the scripted expert succeeds, with and without disturbances, from freshly sampled start states.

python benchmarks/expert_success.py --episodes 20
MS_ASSET_DIR=FOLDER python benchmarks/expert_success.py --suite simpler_widowx
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tyro

from spatialvla.simulation.libero import demonstration as libero
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.tasks import tasks
from spatialvla.simulation.recording.demonstration import Demonstration
from spatialvla.simulation.widowx import demonstration as widowx
from spatialvla.simulation.widowx.env import SUITE, TASKS, WidowXEnv
from spatialvla.simulation.widowx.expert import WidowXExpert

Play = Callable[[np.random.Generator, bool], Demonstration | None]


@dataclass(frozen=True)
class Options:
    suite: str = "libero_spatial"
    episodes: int = 20
    seed: int = 100
    tasks: tuple[int, ...] = ()  # all unless given


def instructions(suite: str) -> Sequence[str]:
    return (
        [task.instruction for task in TASKS] if suite == SUITE else [task.language for task in tasks(suite)]
    )


def player(suite: str, task: int) -> Play:
    """Plays one undrawn episode, disturbed or not."""
    if suite == SUITE:
        arm = WidowXEnv(TASKS[task])
        return lambda rng, disturbed: widowx.demonstrate(arm, WidowXExpert(arm), rng, disturbed, draw=False)
    env = LiberoEnv(tasks(suite)[task])
    expert = LiberoExpert(env)
    return lambda rng, disturbed: libero.demonstrate(env, expert, rng, disturbed, draw=False)


def main(options: Options) -> None:
    print("| task | calm | steps | disturbed | steps |\n|---|---|---|---|---|")
    names = instructions(options.suite)
    for number in options.tasks or range(len(names)):
        play = player(options.suite, number)
        cells = [f"{number} {names[number]}"]
        for disturbed in (False, True):
            lengths = []
            for episode in range(options.episodes):
                done = play(np.random.default_rng([options.seed, number, episode]), disturbed)
                lengths += [len(done.actions)] if done else []
            cells += [f"{len(lengths)}/{options.episodes}", f"{np.mean(lengths):.0f} (≤ {max(lengths)})"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options))
