"""`spatialvla data inspect`: look at a dataset before training on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spatialvla.cli.bar import progress
from spatialvla.cli.data.source_options import FlatSourceOptions
from spatialvla.cli.rerun_option import destination
from spatialvla.cli.verb import Verb
from spatialvla.common.checks import check_counts
from spatialvla.common.output_folder import check_output_folder

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from spatialvla.actions.statistics import ActionStatistics
    from spatialvla.actions.units import ActionUnits
    from spatialvla.data.camera_summary import CameraSummary
    from spatialvla.data.episodes import EpisodeSource
    from spatialvla.data.inspection import Inspection, StateRanges
    from spatialvla.data.omissions import Omissions
    from spatialvla.viz.rerun.destination import Destination

_INSTRUCTIONS = 5  # printed
_NAMED = 20  # of what is left out, for each reason


@dataclass(frozen=True)
class Inspect(Verb):
    """Print what a dataset holds, with warnings.

    Shows episodes, instructions, cameras, depth, actions and the arm's state, and what a run with --on-bad skip would
    leave out; with --out it draws histograms and a contact sheet with the gripper's path.
    """

    source: FlatSourceOptions

    out: Path | None = None
    """Folder for actions.png and frames.png."""

    rerun: str | None = None
    """Record episodes looked at closely for Rerun: a folder, viewer to open one, or the address of one that runs."""

    episodes: int | None = None
    """Look at so many episodes, evenly spread, instead of all."""

    all_pictures: bool = False
    """Decode every picture, to find all that are damaged; else the few that are shown."""

    policy: str | None = None
    """Check the instructions by the tokenizer of this policy, that a run would start from; None checks none."""

    def run(self) -> None:
        """Prints what was found, and draws it."""
        if self.episodes is not None:
            check_counts(episodes=self.episodes)
        if self.out is not None:
            check_output_folder(self.out)
        from spatialvla.common.terminal import Terminal
        from spatialvla.data.inspection import inspect

        recorded_to = destination(self.rerun)
        with progress("Reading") as report:
            source, check = self.source.open(), self._check()
            inspection = inspect(
                source, self.episodes, progress=report, check=check, decode=self.all_pictures
            )
        console = Terminal()
        _print(inspection, console)
        if self.out is not None:
            _draw(inspection, self.out)
            console.print(f"Wrote {self.out}/actions.png and frames.png", highlight=False, soft_wrap=True)
        if recorded_to is not None:
            _record(source, [strip.episode for strip in inspection.strips], recorded_to)
            told = f"Recorded {len(inspection.strips)} episodes for Rerun in {self.rerun}"
            console.print(told, highlight=False, soft_wrap=True)

    def _check(self) -> Callable[[str], object] | None:
        if self.policy is None:
            return None
        from spatialvla.processor import Processor

        return Processor.from_pretrained(self.policy).check_instruction


def _record(source: EpisodeSource, episodes: Sequence[int], recorded_to: Destination) -> None:
    from spatialvla.viz.rerun.dataset import record_episode

    with progress("Recording") as report:
        for done, episode in enumerate(episodes):
            report(done, len(episodes))
            record_episode(source, episode, recorded_to)


def _print(inspection: Inspection, console: Console) -> None:
    from spatialvla.common.terminal import shown
    from spatialvla.types import ACTION_AXES

    def line(text: str) -> None:
        console.print(shown(text), soft_wrap=True)

    lengths = inspection.lengths
    line(f"{inspection.key}: {len(lengths)} episodes, {lengths.sum()} steps at {inspection.control_hz:g} Hz")
    line(f"Steps an episode: {lengths.min()} to {lengths.max()}, {lengths.mean():.1f} on average")
    told = [(words, count) for words, count in inspection.instructions if words]
    line(f"Instructions: {len(told)} different" + (", most frequent" if len(told) > _INSTRUCTIONS else ""))
    for words, count in told[:_INSTRUCTIONS]:
        line(f"  {count:6d}  {words}")
    for camera in inspection.cameras:
        _print_camera(camera, "" if len(inspection.cameras) == 1 else f" {camera.name}", line)
    line(f"Units of actions: {_units(inspection.units)}")
    console.print(_table("Actions", ACTION_AXES, inspection.statistics))
    if inspection.state is not None:
        console.print(
            _table("State of the arm, in the dataset's units", inspection.state.names, inspection.state)
        )
    for warning in inspection.warnings:
        line(f"Warning: {warning}")
    _print_omissions(inspection.omissions, line)


def _print_camera(camera: CameraSummary, name: str, line: Callable[[str], None]) -> None:
    height, width = camera.size
    k, sensor = camera.intrinsics, camera.depth
    known = (
        "intrinsics unknown"
        if k is None
        else f"fx {k[0, 0]:.1f}, fy {k[1, 1]:.1f}, cx {k[0, 2]:.1f}, cy {k[1, 2]:.1f}"
    )
    size = f"{width}x{height}" if height else "of the pictures looked at none can be read"
    line(f"Camera{name}: {size}{', with depth' if camera.has_depth else ''}, {known}")
    if (place := camera.place) is not None:
        x, y, z = place[:3, 3]
        mirrored = ", pictures mirrored" if np.linalg.det(place[:3, :3]) < 0 else ""
        where = f"({x:.3f}, {y:.3f}, {z:.3f}) m in the robot's frame"
        if camera.moves:
            line(f"  moves; the first episode begins with it at {where}{mirrored}")
        else:
            many = f" in the first episode, and at {camera.places} places in all" if camera.places > 1 else ""
            line(f"  stands at {where}{many}{mirrored}")
    if sensor is not None:
        height, width = sensor.size
        line(
            f"Depth{name}: {width}x{height}, {sensor.nearest:.3g} to {sensor.farthest:.3g} m (q01 to q99), "
            f"{sensor.holes:.1%} not measured, in the frames looked at"
        )


def _print_omissions(omissions: Omissions, line: Callable[[str], None]) -> None:
    """What a run would leave out, one by one as far as there is room."""
    groups = {
        ": parts of the files that are damaged, or say that they failed": omissions.parts,
        " with --on-bad skip: damaged episodes": omissions.damaged,
        " with --on-bad skip: episodes with pictures that cannot be read": omissions.pictures,
        " with --on-bad skip: episodes with an instruction that cannot be used": omissions.instructions,
    }
    for what, sentences in groups.items():
        if sentences:
            line(f"Left out{what} ({len(sentences)})")
            for sentence in sentences[:_NAMED]:
                line(f"  {sentence}")
            if len(sentences) > _NAMED:
                line(f"  and {len(sentences) - _NAMED} more")
    if omissions.steps:
        line(
            f"Left out always: {omissions.steps} episodes without steps, or that the dataset says to leave out"
        )
    if omissions.words:
        line(f"Left out without --missing-instruction: episodes without an instruction ({omissions.words})")


def _units(units: ActionUnits) -> str:
    said = {"rotation": units.rotation, "frame": units.frame}
    sizes = [] if {"meters", "radians"} & set(units.unknown) else [units.describe()]
    words = sizes + [f"{name} {word}" for name, word in said.items() if word is not None]
    if units.unknown:
        words.append(f"unknown {', '.join(units.unknown)} (a mapping's or spec's 'units' says them)")
    return "; ".join(words)


def _table(title: str, names: Sequence[str], statistics: ActionStatistics | StateRanges) -> Table:
    from rich import box
    from rich.table import Table

    from spatialvla.common.terminal import shown

    # Narrow enough for 80 columns.
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    columns = ("q01", "q99", "mean", "std", "min", "max")
    table.add_column("dimension", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", min_width=9)
    for number, dimension in enumerate(names):
        values = (getattr(statistics, column)[number] for column in columns)
        table.add_row(shown(dimension), *(f"{value:.4g}" for value in values))
    return table


def _draw(inspection: Inspection, out: Path) -> None:
    from spatialvla.common.files import replacing
    from spatialvla.viz.dataset import action_figure, contact_sheet
    from spatialvla.viz.drawing import png

    for name, figure in (("actions.png", action_figure), ("frames.png", contact_sheet)):
        with replacing(out / name) as partial:
            partial.write_bytes(png(figure(inspection)))
