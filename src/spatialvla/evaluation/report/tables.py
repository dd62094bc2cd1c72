"""Tables of success as data; `terminal`, `markdown` and `page` each draw them in their own way."""

from __future__ import annotations

from dataclasses import dataclass

from spatialvla.evaluation.results.comparison import Comparison, points
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.intervals import Pairs
from spatialvla.evaluation.results.outcomes import Tally


@dataclass(frozen=True)
class Interval:
    """A cell that shows the 95 % interval of a success rate and nothing else."""

    tally: Tally


@dataclass(frozen=True)
class PublishedRate:
    """A cell with a published success rate, in percent as printed; spread: its ±."""

    percent: float
    spread: float | None = None


Cell = str | Tally | Interval | PublishedRate | None
"""Text; a rate with its interval and counts; an interval alone; a published rate; or nothing known."""


@dataclass(frozen=True)
class Column:
    """bar: a page draws its intervals as bars."""

    title: str
    bar: bool = False


@dataclass(frozen=True)
class Row:
    """One line: its label and a cell for each column.

    detail: small print beside the label. source: number of its source on the page.
    ours: evaluated here, among figures of others; it stands out.
    """

    label: str
    cells: tuple[Cell, ...]
    detail: str = ""
    source: int | None = None
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under the headings of their labels and cells; total: the last line; note: a remark below."""

    title: str
    label: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    total: Row | None = None
    note: str = ""


def success_table(results: Results) -> Table:
    """How often an evaluation succeeded, by task and in all, and its successes' mean length in steps."""
    columns = [
        Column("Successes"),
        Column("Rate"),
        Column("95 % interval", bar=True),
        Column("Steps"),
    ]
    partial = bool(results.conventions.partial or results.partial().trials)
    if partial:
        columns.append(Column("Partial"))

    def row(label: str, task: int | None = None) -> Row:
        tally, steps = results.tally(task), results.mean_steps(task)
        cells = (
            count(tally),
            percent(tally),
            Interval(tally) if tally.trials else None,
            None if steps is None else f"{steps:.0f}",
        )
        halfway = results.partial(task)
        return Row(label, (*cells, count(halfway) if halfway.trials else None) if partial else cells)

    depth = "" if results.depth == "estimate" else f", with the {results.depth}'s depth"
    return Table(
        title=f"{results.policy} on {results.suite}{depth}",
        label="Task",
        columns=tuple(columns),
        rows=tuple(row(instruction, task) for task, instruction in results.planned_tasks.items()),
        total=row("All tasks"),
    )


def pairs_table(comparison: Comparison) -> Table:
    """Who succeeded where two policies played the same start states, by task and in all."""
    first, second = comparison.names
    titles = (first, second, "Both", f"Only {first}", f"Only {second}", "Neither", "Difference")
    instructions = comparison.first.tasks
    return Table(
        title=f"{first} and {second} on {comparison.first.suite}",
        label="Task",
        columns=tuple(Column(title) for title in titles),
        rows=tuple(_pairs_row(instructions[task], pairs) for task, pairs in comparison.tasks.items()),
        total=_pairs_row("All tasks", comparison.total),
    )


def _pairs_row(label: str, pairs: Pairs) -> Row:
    rates = (
        Tally(pairs.both + pairs.first, pairs.trials),
        Tally(pairs.both + pairs.second, pairs.trials),
    )
    counts = (pairs.both, pairs.first, pairs.second, pairs.neither)
    return Row(label, (*map(percent, rates), *map(str, counts), points(pairs.difference)))


# ---------------------------------------------------------------- cells as text


def count(tally: Tally) -> str:
    """Successes and trials: `3/4`."""
    return f"{tally.successes}/{tally.trials}"


def percent(tally: Tally) -> str:
    """The rate: `75 %`; a dash before the first trial."""
    return f"{100 * tally.rate:.0f} %" if tally.trials else "–"


def cell_text(cell: Cell) -> str:
    """A cell in one line of plain text."""
    match cell:
        case None:
            return "–"
        case str():
            return cell
        case Interval(tally):
            low, high = tally.interval
            return f"{100 * low:.0f} – {100 * high:.0f} %"
        case PublishedRate(rate, spread):
            return f"{rate} %" if spread is None else f"{rate} % ± {spread}"
        case Tally():
            low, high = cell.interval
            return f"{100 * cell.rate:.1f} % ({100 * low:.1f}–{100 * high:.1f}; {count(cell)})"
