"""The page of results as Markdown, which is plain enough to read in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spatialvla.evaluation.report.html_results import (
    ComparisonView,
    EvaluationView,
    Figure,
    MethodTable,
    ResultsPage,
)
from spatialvla.evaluation.report.rates import Rate, percent


def to_markdown(page: ResultsPage, evaluations: bool = True) -> str:
    """The page's tables, texts and sources. evaluations: False leaves out how each was measured."""
    parts = [f"# {page.title}", page.subtitle]
    if page.comparison:
        parts += _comparison(page.comparison)
    for table in page.tables:
        parts += _method_table(table)
    if evaluations:
        for view in page.evaluations:
            parts += _evaluation(view)
    if page.sources:
        lines = (f"{number}. [{title}]({address})" for number, (title, address) in enumerate(page.sources, 1))
        parts += ["## Sources of the published figures", "\n".join(lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _method_table(table: MethodTable) -> list[str]:
    rows = [
        (
            f"{row.name} [{row.source}]" if row.source else f"**{row.name}**",
            *(_cell(cell) for cell in row.cells),
            row.detail,
        )
        for row in table.rows
    ]
    heads = ("policy", *table.columns, "")
    return [f"## {table.title}", _table(heads, rows, left=(0, len(heads) - 1)), table.note]


def _cell(cell: Rate | Figure | None) -> str:
    match cell:
        case None:
            return "–"
        case Figure():
            return f"{cell.percent} %" + (f" ± {cell.spread}" if cell.spread is not None else "")
        case Rate():
            interval = f"{100 * cell.low:.1f}–{100 * cell.high:.1f}"
            return f"{100 * cell.value:.1f} % ({interval}; {_count(cell)})"


def _evaluation(view: EvaluationView) -> list[str]:
    rows = [
        (line.title, _count(line.rate), percent(line.rate), _range(line.rate), line.steps, line.partial)
        for line in view.tasks
    ]
    heads = ("task", "successes", "rate", "95 % interval", "steps", "partial")
    facts = "\n".join(f"- {name}: {value}" for name, value in view.facts)
    return [f"## {view.title}", _table(heads, rows), facts]


def _comparison(view: ComparisonView) -> list[str]:
    first, second = view.names
    heads = ("task", first, second, "both", f"only {first}", f"only {second}", "neither", "difference")
    rows = [
        (line.title, percent(line.first), percent(line.second), *map(str, line.counts), line.difference)
        for line in view.lines
    ]
    numbers = "\n".join(f"- {name}: {value}" for name, value in view.numbers)
    caveats = "\n".join(["These differ, too:", "", *(f"- {caveat}" for caveat in view.caveats)])
    return [f"## {view.title}", view.verdict, numbers, _table(heads, rows), caveats if view.caveats else ""]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    rule = "|".join("---" if column in left else "---:" for column in range(len(heads)))
    return "\n".join([f"| {' | '.join(heads)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)])


def _count(rate: Rate) -> str:
    return f"{rate.successes}/{rate.trials}"


def _range(rate: Rate) -> str:
    return f"{rate.low:.0%} – {rate.high:.0%}" if rate.trials else "–"
