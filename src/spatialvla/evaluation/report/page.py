"""What our HTML pages are made of: the frame with its style inside, tables, and lists of facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from spatialvla.common.files import replacing
from spatialvla.evaluation.report.tables import (
    Cell,
    Column,
    Interval,
    PublishedRate,
    Row,
    Table,
    cell_text,
)
from spatialvla.evaluation.results.outcomes import Tally

_ASSETS = files("spatialvla") / "assets"


def write_page(path: Path, html: str) -> None:
    """Writes a page; a reader sees either the old file or the whole new one."""
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")


def page(
    title: str,
    subtitle: str,
    body: str,
    *,
    beside: str = "",
    styles: Sequence[str],
    script: str | None = None,
) -> str:
    """One self-contained page: it loads nothing.

    title, subtitle: as text. body, beside: as HTML; beside: at the right of the title.
    styles, script: names of files in `assets/report`, which go inside.
    """
    colors = (_ASSETS / "colors.css").read_text(encoding="utf-8")
    style = colors + "".join(map(_asset, styles))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<div><h1>{escape(title)}</h1><p class="muted">{escape(subtitle)}</p></div>
{beside}
</header>
{body}
{f"<script>{_asset(script)}</script>" if script else ""}
</body>
</html>
"""


def html_table(table: Table, labels: Sequence[str] = (), kind: str = "") -> str:
    """A table without its title and note; where it is wider than the screen, it scrolls.

    labels: HTML in place of the rows' labels, for links. kind: the table's class in the style sheet.
    """
    heads = "".join(_head(column) for column in table.columns)
    shown = labels or [_label(row) for row in table.rows]
    rows = "".join(_row(table, row, label) for row, label in zip(table.rows, shown, strict=True))
    foot = f"<tfoot>{_row(table, table.total, _label(table.total))}</tfoot>" if table.total else ""
    styled = f' class="{kind}"' if kind else ""
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table{styled}>
<thead><tr><th>{escape(table.label)}</th>{heads}</tr></thead>
<tbody>{rows}</tbody>{foot}
</table></div>"""


def titled_table(table: Table, kind: str = "") -> str:
    """A table below its title and above its note. kind: as of `html_table`."""
    note = f'<p class="muted note">{escape(table.note)}</p>' if table.note else ""
    return f"""<h2>{escape(table.title)}</h2>
{html_table(table, kind=kind)}{note}"""


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and values, side by side."""
    pairs = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{''.join(pairs)}</dl>"


def interval_bar(tally: Tally) -> str:
    """The 95 % interval on a line from 0 to 100 %, the rate as a dot on it."""
    low, high = tally.interval
    style = f"--low:{low:.1%};--high:{high:.1%};--rate:{tally.rate:.1%}"
    return f'<div class="interval" title="{interval_words(tally)}" style="{style}"><span></span><i></i></div>'


def interval_words(tally: Tally) -> str:
    """The interval in words."""
    low, high = tally.interval
    return f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"


def _asset(name: str) -> str:
    return (_ASSETS / "report" / name).read_text(encoding="utf-8")


def _head(column: Column) -> str:
    title = f"{column.title}, 0 to 100 %" if column.bar else column.title
    return f'<th class="{_kind(column)}">{escape(title)}</th>'


def _kind(column: Column) -> str:
    """The classes of a column's cells in the style sheet."""
    return "bar" if column.bar else "number"


def _row(table: Table, row: Row, label: str) -> str:
    cells = "".join(
        f'<td class="{_kind(column)}">{_cell(cell)}</td>'
        for column, cell in zip(table.columns, row.cells, strict=True)
    )
    ours = ' class="ours"' if row.ours else ""
    return f"<tr{ours}><td>{label}</td>{cells}</tr>"


def _label(row: Row) -> str:
    source = f'<sup><a href="#source{row.source}">{row.source}</a></sup>' if row.source else ""
    detail = f'<span class="detail">{escape(row.detail)}</span>' if row.detail else ""
    return f'<span class="label">{escape(row.label)}</span>{source}{detail}'


def _cell(cell: Cell) -> str:
    match cell:
        case None:
            return '<span class="muted">–</span>'
        case Interval(tally):
            return interval_bar(tally)
        case PublishedRate(rate, spread):
            return f"{rate} %" + ("" if spread is None else f'<span class="detail">± {spread}</span>')
        case Tally():
            low, high = cell.interval
            words = f"{100 * low:.0f} to {100 * high:.0f}<br>{cell.successes} of {cell.trials}"
            return f'<b>{100 * cell.rate:.1f} %</b>{interval_bar(cell)}<span class="detail">{words}</span>'
        case _:
            return escape(cell_text(cell))
