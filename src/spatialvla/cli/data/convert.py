"""`spatialvla data convert`: a dataset of any kind in LeRobot's form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spatialvla.cli.bar import progress
from spatialvla.cli.data.source_options import FlatSourceOptions
from spatialvla.cli.verb import Verb
from spatialvla.common.output_folder import check_output_folder


@dataclass(frozen=True)
class Convert(Verb):
    """Write a dataset in LeRobot's form.

    It holds images and depth of all cameras, with their intrinsics and places, the arm's state and the actions, as
    LeRobot v3. A conversion that was interrupted goes on.
    """

    source: FlatSourceOptions

    out: Path
    """Folder of the new dataset."""

    fps: int | None = None
    """Frames a second to write down; the dataset's own unless given."""

    instruction: str = ""
    """Of the episodes that have none."""

    depth_video: Literal["none", "log", "linear"] = "none"
    """Store depth as 12-bit video in logarithmic or linear steps; none stores images in whole millimeters."""

    depth_range: tuple[float, float] = (0.01, 10.0)
    """Meters that depth video reaches from and to; what lies outside becomes not measured."""

    def run(self) -> None:
        """Writes the dataset, and says which episodes were left out."""
        check_output_folder(self.out)
        from spatialvla.common.terminal import Terminal, shown
        from spatialvla.data.convert import convert
        from spatialvla.data.lerobot.depth_video import DepthQuantization

        depth_video = None
        if self.depth_video != "none":
            depth_video = DepthQuantization.of(self.depth_video, self.depth_range)
        with progress("Converting") as report:
            converted = convert(self.source.open(), self.out, self.fps, self.instruction, report, depth_video)
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
