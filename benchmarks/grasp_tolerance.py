"""How far beside its best grasp the scripted expert still succeeds: what a policy has to see.

python benchmarks/grasp_tolerance.py --tasks 0 2 4 7 --episodes 2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tyro

from spatialvla.simulation.libero.demonstration import demonstrate
from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.expert import LiberoExpert
from spatialvla.simulation.libero.skills import carry
from spatialvla.simulation.libero.skills.grasping import Grasp, rim_grasp
from spatialvla.simulation.libero.tasks import tasks

OFFSETS = {  # meters across the fingers' opening, along the rim, up
    "none": (0, 0, 0),
    "1 cm up": (0, 0, 0.01),
    "2 cm up": (0, 0, 0.02),
    "1 cm down": (0, 0, -0.01),
    "1.5 cm across": (0.015, 0, 0),
    "-1.5 cm across": (-0.015, 0, 0),
    "2.5 cm across": (0.025, 0, 0),
    "-2.5 cm across": (-0.025, 0, 0),
    "1.5 cm along": (0, 0.015, 0),
    "2.5 cm along": (0, 0.025, 0),
}


@dataclass(frozen=True)
class Options:
    suite: str = "libero_spatial"
    tasks: tuple[int, ...] = (0, 2, 4, 7)
    episodes: int = 2
    seed: int = 7


def main(options: Options) -> None:
    successes = {name: [] for name in OFFSETS}
    for number in options.tasks:
        env = LiberoEnv(tasks(options.suite)[number])
        expert = LiberoExpert(env)
        for name, offset in OFFSETS.items():
            carry.rim_grasp = shifted(*offset)
            for episode in range(options.episodes):
                rng = np.random.default_rng([options.seed, number, episode])
                done = demonstrate(env, expert, rng, disturbed=False, draw_every=0)
                successes[name].append(done is not None)
    print("| grasp shifted by | successes |\n|---|---|")
    for name, done in successes.items():
        print(f"| {name} | {sum(done)}/{len(done)} |")


def shifted(across: float, along: float, up: float):
    def grasp(*scene: object) -> Grasp:
        best = rim_grasp(*scene)
        c, s = np.cos(best.yaw), np.sin(best.yaw)
        return Grasp(best.position + across * np.array([-s, c, 0]) + [along * c, along * s, up], best.yaw)

    return grasp


if __name__ == "__main__":
    main(tyro.cli(Options))
