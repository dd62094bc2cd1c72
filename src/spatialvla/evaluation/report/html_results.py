"""Evaluations as one self-contained HTML page: tables beside published figures, and a paired comparison."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from spatialvla.common.files import replacing
from spatialvla.evaluation.report.rates import Rate, interval_bar, percent, range_words


@dataclass(frozen=True)
class Figure:
    """A published rate, in percent as printed; spread: its ±."""

    percent: float
    spread: float | None = None


@dataclass(frozen=True)
class MethodRow:
    """One method's line. detail: small print beside the name. cells: one a column, the average last.

    source: the number of its source on the page; None for what was evaluated here.
    """

    name: str
    detail: str
    cells: tuple[Rate | Figure | None, ...]
    source: int | None = None


@dataclass(frozen=True)
class MethodTable:
    """Methods as rows, suites or tasks as columns, and a note below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[MethodRow, ...]
    note: str = ""


@dataclass(frozen=True)
class TaskLine:
    """One task of an evaluation. steps: the mean length of its successes. partial: at least partial successes."""

    title: str
    rate: Rate
    steps: str
    partial: str


@dataclass(frozen=True)
class EvaluationView:
    """One evaluation in full. facts: (name, value) pairs about how it was measured."""

    title: str
    detail: str
    total: Rate
    tasks: tuple[TaskLine, ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PairLine:
    """A task's or the total's paired outcomes: how many both, only the first, only the second, none solved."""

    title: str
    counts: tuple[int, int, int, int]
    first: Rate
    second: Rate
    difference: str


@dataclass(frozen=True)
class ComparisonView:
    """Two policies on the same episodes. numbers: (name, value) pairs; caveats: what else differs."""

    title: str
    names: tuple[str, str]
    verdict: str
    numbers: tuple[tuple[str, str], ...]
    lines: tuple[PairLine, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class ResultsPage:
    """All of it. sources: (title, address), numbered from 1."""

    title: str
    subtitle: str
    tables: tuple[MethodTable, ...] = ()
    evaluations: tuple[EvaluationView, ...] = ()
    comparison: ComparisonView | None = None
    sources: tuple[tuple[str, str], ...] = ()

    def save(self, path: Path) -> None:
        """Writes the page; a reader sees either the old file or the whole new one."""
        with replacing(path) as partial:
            partial.write_text(self.to_html(), encoding="utf-8")

    def to_html(self) -> str:
        """The page with its style inside; it loads nothing."""
        assets = files("spatialvla") / "assets" / "report"
        style = "".join((assets / name).read_text(encoding="utf-8") for name in ("style.css", "results.css"))
        parts = [
            _comparison(self.comparison) if self.comparison else "",
            *(_method_table(table) for table in self.tables),
            '<h2 id="evaluations">How each was measured</h2>' if self.evaluations else "",
            *(_evaluation(view) for view in self.evaluations),
            _sources(self.sources) if self.sources else "",
        ]
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(self.title)}</title>
<style>{style}</style>
</head>
<body>
<header><div><h1>{escape(self.title)}</h1><p class="muted">{escape(self.subtitle)}</p></div></header>
{"".join(parts)}
</body>
</html>
"""


def _method_table(table: MethodTable) -> str:
    heads = "".join(f'<th class="number">{escape(column)}</th>' for column in table.columns)
    note = f'<p class="muted note">{escape(table.note)}</p>' if table.note else ""
    return f"""<h2>{escape(table.title)}</h2>
<div class="scroll"><table class="methods">
<thead><tr><th>Policy</th>{heads}</tr></thead>
<tbody>{"".join(_method_row(row) for row in table.rows)}</tbody>
</table></div>{note}"""


def _method_row(row: MethodRow) -> str:
    cells = "".join(f'<td class="number">{_cell(cell)}</td>' for cell in row.cells)
    source = f'<sup><a href="#source{row.source}">{row.source}</a></sup>' if row.source else ""
    detail = f'<span class="detail">{escape(row.detail)}</span>' if row.detail else ""
    kind = "" if row.source else ' class="ours"'
    return f"<tr{kind}><td><b>{escape(row.name)}</b>{source}{detail}</td>{cells}</tr>"


def _cell(cell: Rate | Figure | None) -> str:
    match cell:
        case None:
            return '<span class="muted">–</span>'
        case Figure():
            spread = f'<span class="detail">± {cell.spread}</span>' if cell.spread is not None else ""
            return f"{cell.percent} %{spread}"
        case Rate():
            interval = f"{100 * cell.low:.0f} to {100 * cell.high:.0f}"
            words = f"{interval}<br>{cell.successes} of {cell.trials}"
            bar = f'<div title="{range_words(cell)}">{interval_bar(cell)}</div>'
            return f'<b>{100 * cell.value:.1f} %</b>{bar}<span class="detail">{words}</span>'


def _evaluation(view: EvaluationView) -> str:
    partial = any(line.partial != "–" for line in view.tasks)
    extra = '<th class="number optional">Partial</th>' if partial else ""
    rows = "".join(
        f"""<tr><td>{escape(line.title)}</td><td class="number">{line.rate.successes}/{line.rate.trials}</td>
<td class="number">{percent(line.rate)}</td>
<td class="wide optional" title="{range_words(line.rate)}">{interval_bar(line.rate)}</td>
<td class="number optional">{escape(line.steps)}</td>"""
        + (f'<td class="number optional">{escape(line.partial)}</td>' if partial else "")
        + "</tr>"
        for line in view.tasks
    )
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in view.facts)
    return f"""<details class="evaluation"><summary><b>{escape(view.title)}</b>
<span class="muted">{escape(view.detail)}</span>
<span class="sum">{view.total.successes}/{view.total.trials}</span></summary>
<table><thead><tr><th>Task</th><th class="number">Successes</th><th class="number">Rate</th>
<th class="optional">95 % interval, 0 to 100 %</th><th class="number optional">Steps</th>{extra}</tr></thead>
<tbody>{rows}</tbody></table>
<dl>{facts}</dl></details>"""


def _comparison(view: ComparisonView) -> str:
    first, second = (escape(name) for name in view.names)
    numbers = "".join(
        f"<div><strong>{escape(value)}</strong><span>{escape(name)}</span></div>"
        for name, value in view.numbers
    )
    caveats = "".join(f"<li>{escape(caveat)}</li>" for caveat in view.caveats)
    also = f'<p class="muted note">These differ, too:</p><ul class="muted">{caveats}</ul>' if caveats else ""
    *lines, total = (_pair_line(line) for line in view.lines)
    return f"""<h2>{escape(view.title)}</h2>
<p class="verdict">{escape(view.verdict)}</p>
<div class="numbers">{numbers}</div>
<div class="scroll"><table class="pairs">
<thead><tr><th>Task</th><th class="number">{first}</th><th class="number">{second}</th>
<th class="number">Both</th><th class="number">Only {first}</th><th class="number">Only {second}</th>
<th class="number">Neither</th><th class="number">Difference</th></tr></thead>
<tbody>{"".join(lines)}</tbody><tfoot>{total}</tfoot></table></div>{also}"""


def _pair_line(line: PairLine) -> str:
    both, first, second, neither = line.counts
    counts = (percent(line.first), percent(line.second), both, first, second, neither, line.difference)
    cells = "".join(f'<td class="number">{escape(str(count))}</td>' for count in counts)
    return f"<tr><td>{escape(line.title)}</td>{cells}</tr>"


def _sources(sources: tuple[tuple[str, str], ...]) -> str:
    items = "".join(
        f'<li id="source{number}"><a href="{escape(address)}">{escape(title)}</a></li>'
        for number, (title, address) in enumerate(sources, 1)
    )
    return f'<h2>Sources of the published figures</h2><ol class="sources">{items}</ol>'
