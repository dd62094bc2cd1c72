"""`spatialvla data statistics`: one set of statistics for several datasets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from spatialvla.cli.bar import progress
from spatialvla.cli.dataset_options import FlatDatasetOptions
from spatialvla.cli.verb import Verb
from spatialvla.common.output_folder import check_output_folder
from spatialvla.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Statistics(Verb):
    """Write one set of statistics for several datasets.

    Training takes the file by --statistics. q01 and q99 are those of all actions, and states, together: a token is
    then the same motion in each dataset.
    """

    datasets: FlatDatasetOptions

    out: Path
    """The JSON file to write."""

    symmetric_rotations: bool = False
    """Let rotations reach as far to either side, so that no rotation is the middle of a uniform grid's cell."""

    cache: Path | None = None
    """Folder for what is counted once; None takes the user's cache folder."""

    workers: int = 1
    """Processes that read."""

    on_bad: Literal["raise", "skip"] = "raise"
    """Whether a damaged episode is an error, or is left out."""

    def run(self) -> None:
        """Reads all actions and states, and writes the file."""
        check_output_folder(self.out.parent)
        if self.datasets.weights:
            raise InputError("In statistics each step counts once; leave --weights out.")
        from spatialvla.actions.statistics_file import write_statistics
        from spatialvla.common.cache_folder import cache_folder
        from spatialvla.common.terminal import Terminal
        from spatialvla.data.pooled_statistics import pooled_statistics
        from spatialvla.training.feed.datasets import open_dataset

        cache = self.cache or cache_folder()
        sources = [
            open_dataset(dataset, cache, self.on_bad, state=True, pictures=False)
            for dataset in self.datasets.configurations()
        ]
        total = sum(map(len, sources))
        with progress("Reading") as report:
            done = 0

            def told(episodes: int) -> None:
                nonlocal done
                done += episodes
                report(done, total)

            found = pooled_statistics(sources, self.workers, cache / "surveys", self.on_bad, told)
        actions = found.actions
        if self.symmetric_rotations:
            found = replace(found, actions=actions.with_symmetric_rotations())
        write_statistics(self.out, found)
        counts = f"{actions.num_trajectories} episodes, {actions.num_transitions} steps"
        Terminal().print(f"Wrote statistics of {counts} to {self.out}", highlight=False, soft_wrap=True)
