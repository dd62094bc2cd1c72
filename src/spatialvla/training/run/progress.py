"""A progress bar with the time left, and a table for each validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.table import Table

from spatialvla.common.terminal import Terminal, shown
from spatialvla.training.config import TrainConfig


class Progress:
    """Shows a run on a console, or nothing without one."""

    def __init__(self, config: TrainConfig, console: Console | None) -> None:
        self.console = console or Terminal(quiet=True)
        self.bar = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task(f"training {config.preset}", total=1.0)

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def update(self, step: int, fraction: float, numbers: Mapping[str, float]) -> None:
        """fraction: of the run that is done."""
        text = f"step {step}  loss {numbers['loss']:.3f}"
        self.bar.update(self.task, completed=fraction, description=text)

    def report(self, step: int, validation: Mapping[str, float]) -> None:
        """What was measured after this step: a row for each kind of token or dataset, a column for each measure."""
        whole = "  ".join(f"{name} {value:.4f}" for name, value in validation.items() if "/" not in name)
        parts = {tuple(name.split("/", 1)): value for name, value in validation.items() if "/" in name}
        self.console.print(f"step {step}: {whole}", highlight=False)
        # Two tables: one with the columns of both would be too wide for 80 columns.
        for hidden in (False, True):
            self._print_parts({key: parts[key] for key in parts if key[0].startswith("without_") == hidden})

    def _print_parts(self, parts: Mapping[tuple[str, ...], float]) -> None:
        """A row and a column for each (measure, row)."""
        if not parts:
            return
        measures, rows = (list(dict.fromkeys(names)) for names in zip(*parts, strict=True))
        table = Table(box=None, padding=(0, 1))
        for measure in ("", *measures):
            table.add_column(measure, no_wrap=True)
        for row in rows:
            values = (parts.get((measure, row)) for measure in measures)
            table.add_row(shown(row), *("" if value is None else f"{value:.4f}" for value in values))
        self.console.print(table, highlight=False)

    def say(self, message: str) -> None:
        """A line above the bar."""
        self.console.print(shown(message), highlight=False)

    def show(self, picture: RenderableType) -> None:
        """A table, say, above the bar."""
        self.console.print(picture)

    @contextmanager
    def counting(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of its own for work done once before training."""
        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.TaskProgressColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(shown(description), total=total)
            yield lambda done: bar.advance(task, done)
