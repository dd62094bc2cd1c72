"""How often the scripted expert succeeds, with and without disturbances, from freshly sampled start states.

python benchmarks/expert_success.py --episodes 20
MS_ASSET_DIR=FOLDER python benchmarks/expert_success.py --suite simpler_widowx
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tyro

from spatialvla.errors import InputError
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
    starts: Literal["calm", "disturbed", "both"] = "both"


def instructions(suite: str) -> Sequence[str]:
    return (
        [task.instruction for task in TASKS] if suite == SUITE else [task.language for task in tasks(suite)]
    )


@contextmanager
def player(suite: str, task: int) -> Iterator[Play]:
    """Plays one undrawn episode, disturbed or not."""
    if suite == SUITE:
        with closing(WidowXEnv(TASKS[task])) as arm:
            yield lambda rng, disturbed: widowx.demonstrate(
                arm, WidowXExpert(arm), rng, disturbed, draw_every=0
            )
    else:
        with closing(LiberoEnv(tasks(suite)[task])) as env:
            expert = LiberoExpert(env)
            yield lambda rng, disturbed: libero.demonstrate(env, expert, rng, disturbed, draw_every=0)


def main(options: Options) -> None:
    kinds = ["calm", "disturbed"] if options.starts == "both" else [options.starts]
    print("| task |" + "".join(f" {kind} | steps |" for kind in kinds))
    print("|---" * (1 + 2 * len(kinds)) + "|")
    names = instructions(options.suite)
    for number in options.tasks or range(len(names)):
        cells = [f"{number} {names[number]}"]
        try:
            with player(options.suite, number) as play:
                for kind in kinds:
                    cells += played(play, options, number, kind == "disturbed")
        except InputError as error:
            cells.append(str(error))
        print("| " + " | ".join(cells) + " |", flush=True)


def played(play: Play, options: Options, task: int, disturbed: bool) -> list[str]:
    """How many episodes succeeded, and in how many steps."""
    lengths = []
    for episode in range(options.episodes):
        done = play(np.random.default_rng([options.seed, task, episode]), disturbed)
        lengths += [len(done.actions)] if done else []
    steps = f"{np.mean(lengths):.0f} (≤ {max(lengths)})" if lengths else ""
    return [f"{len(lengths)}/{options.episodes}", steps]


if __name__ == "__main__":
    main(tyro.cli(Options))
