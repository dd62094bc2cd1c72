"""`spatialvla data convert`: a dataset of any kind in LeRobot's form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatialvla.cli.data.bar import progress
from spatialvla.cli.data.source_options import FlatSourceOptions
from spatialvla.cli.verb import Verb


@dataclass(frozen=True)
class Convert(Verb):
    """Write a dataset in LeRobot's form.

    It holds images, actions and intrinsics, as LeRobot v3. A conversion that was interrupted goes on.
    """

    source: FlatSourceOptions

    out: Path
    """Folder of the new dataset."""

    fps: int | None = None
    """Frames a second to write down; the dataset's own unless given."""

    instruction: str = ""
    """Of the episodes that have none."""

    def run(self) -> None:
        """Writes the dataset, and says which episodes were left out."""
        from spatialvla.common.terminal import Terminal, shown
        from spatialvla.data.convert import convert

        with progress("Converting") as report:
            converted = convert(self.source.open(), self.out, self.fps, self.instruction, report)
        console = Terminal()
        for why in converted.skipped:
            console.print(f"Left out: {shown(why)}", highlight=False, soft_wrap=True)
        if converted.empty:
            console.print(
                f"Left out: {converted.empty} episodes that have no steps, or that the dataset leaves out",
                highlight=False,
            )
        console.print(
            f"Wrote {converted.episodes} episodes to {self.out}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
