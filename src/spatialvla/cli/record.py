"""`spatialvla record`: demonstrations by the scripted expert."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from spatialvla.cli.verb import Verb


@dataclass(frozen=True)
class Record(Verb):
    """Record a scripted expert's demonstrations as a LeRobot dataset."""

    out: Path
    """Folder of the dataset; a recording that was interrupted goes on."""

    suite: str = "libero_spatial"
    """A LIBERO suite the expert knows."""

    tasks: tuple[int, ...] = ()
    """Numbers of the tasks to record; all of the suite's unless given."""

    episodes_per_task: int = 50
    """Successful episodes to store for each task."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that simulate and render."""

    seed: int = 0
    """Of start states and perturbations."""

    depth: bool = True
    """Store the simulator's depth, too."""

    policy: str | None = None
    """Checkpoint that drives for stretches while the expert labels what it gets into (DAgger)."""

    episodes: Path | None = None
    """Folder of single episodes to go on from and to keep: record some, train, record more with --policy."""

    def run(self) -> None:
        from spatialvla.simulation.libero.recorder import record_demonstrations

        record_demonstrations(
            suite=self.suite,
            out=self.out,
            episodes_per_task=self.episodes_per_task,
            workers=self.workers,
            seed=self.seed,
            depth=self.depth,
            policy=self.policy,
            episodes=self.episodes,
            only=self.tasks,
        )
        print(f"Wrote {self.out}")
