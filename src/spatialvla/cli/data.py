"""`spatialvla data`: look at a dataset before training on it, or write it in another form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from tyro.conf import Positional, arg, subcommand

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from spatialvla.data.episodes import EpisodeSource
    from spatialvla.data.inspection import Inspection

_INSTRUCTIONS = 5  # printed


@dataclass(frozen=True)
class SourceOptions:
    dataset: Positional[str]
    """An RLDS folder or URL, a LeRobot folder, name or Hub id, or an RH20T folder."""

    mapping: Path | None = None
    """YAML file that says what a LeRobot dataset's features are."""

    camera: str | None = None
    """The RGB feature of a LeRobot dataset to look through; needed where there are several."""

    spec: str | None = None
    """Name of the spec of an RLDS dataset; found by its own name unless given."""

    skip_bad: bool = True
    """Read what can be read of damaged RLDS shards."""

    def open(self) -> EpisodeSource:
        from spatialvla.data.lerobot.feature_mapping import LeRobotMapping
        from spatialvla.data.sources import open_source

        mapping = None if self.mapping is None else LeRobotMapping.load(self.mapping)
        if self.camera is not None:
            mapping = replace(mapping or LeRobotMapping(), image=self.camera)
        return open_source(
            self.dataset, mapping=mapping, spec=self.spec, on_bad="skip" if self.skip_bad else "raise"
        )


_Source = Annotated[SourceOptions, arg(name="")]


@dataclass(frozen=True)
class Inspect:
    """Print episodes, instructions, camera, actions and warnings; optionally draw histograms and a contact sheet."""

    source: _Source

    out: Path | None = None
    """Folder for actions.png and frames.png."""

    episodes: int | None = None
    """Look at so many episodes, evenly spread, instead of all."""

    def run(self) -> None:
        from rich.console import Console

        from spatialvla.data.inspection import inspect

        with _progress("Reading") as progress:
            inspection = inspect(self.source.open(), self.episodes, progress=progress)
        console = Console()
        _print(inspection, console)
        if self.out is not None:
            _draw(inspection, self.out)
            console.print(f"Wrote {self.out}/actions.png and frames.png", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Convert:
    """Write a dataset as LeRobot v3 with images, actions and intrinsics; goes on where it was interrupted."""

    source: _Source

    out: Path
    """Folder of the new dataset."""

    fps: int | None = None
    """Frames a second to write down; the dataset's own unless given."""

    instruction: str = ""
    """Of the episodes that have none."""

    def run(self) -> None:
        from rich.console import Console

        from spatialvla.data.convert import convert

        with _progress("Converting") as progress:
            converted = convert(self.source.open(), self.out, self.fps, self.instruction, progress)
        console = Console()
        for why in converted.skipped:
            console.print(f"Left out: {why}", highlight=False, soft_wrap=True)
        console.print(
            f"Wrote {converted.episodes} episodes to {self.out}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )


class _Verb(Protocol):
    def run(self) -> None: ...


@dataclass(frozen=True)
class Data:
    """Look at a dataset, or convert it."""

    verb: Annotated[Inspect, subcommand("inspect")] | Annotated[Convert, subcommand("convert")]

    def run(self) -> None:
        verb: _Verb = self.verb
        verb.run()


class _Report(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


@contextmanager
def _progress(words: str) -> Iterator[_Report]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def _print(inspection: Inspection, console: Console) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    lengths = inspection.lengths
    line(f"{inspection.key}: {len(lengths)} episodes, {lengths.sum()} steps at {inspection.control_hz:g} Hz")
    line(f"Steps an episode: {lengths.min()} to {lengths.max()}, {lengths.mean():.1f} on average")
    told = [(words, count) for words, count in inspection.instructions if words]
    line(f"Instructions: {len(told)} different" + (", most frequent" if len(told) > _INSTRUCTIONS else ""))
    for words, count in told[:_INSTRUCTIONS]:
        line(f"  {count:6d}  {words}")
    height, width = inspection.size
    depth = ", with depth" if inspection.has_depth else ""
    k = inspection.intrinsics
    known = (
        "intrinsics unknown"
        if k is None
        else f"fx {k[0, 0]:.1f}, fy {k[1, 1]:.1f}, cx {k[0, 2]:.1f}, cy {k[1, 2]:.1f}"
    )
    line(f"Camera: {width}x{height}{depth}, {known}")
    console.print(_table(inspection))
    for warning in inspection.warnings:
        line(f"Warning: {warning}")


def _table(inspection: Inspection) -> Table:
    from rich.table import Table

    from spatialvla.data.inspection import DIMENSIONS

    table = Table(title="Actions")
    names = ("q01", "q99", "mean", "std", "min", "max")
    table.add_column("dimension")
    for name in names:
        table.add_column(name, justify="right")
    for number, dimension in enumerate(DIMENSIONS):
        values = (getattr(inspection.statistics, name)[number] for name in names)
        table.add_row(dimension, *(f"{value:.4g}" for value in values))
    return table


def _draw(inspection: Inspection, out: Path) -> None:
    from spatialvla.common.files import replacing
    from spatialvla.viz.dataset import action_figure, contact_sheet
    from spatialvla.viz.drawing import png

    for name, figure in (("actions.png", action_figure), ("frames.png", contact_sheet)):
        with replacing(out / name) as partial:
            partial.write_bytes(png(figure(inspection)))
