"""Tables and summaries as Markdown, which is plain enough to read in a terminal."""

from __future__ import annotations

from spatialvla.common.terminal import markdown
from spatialvla.evaluation.report.facts import facts
from spatialvla.evaluation.report.summary import Summary, caveats, key_numbers
from spatialvla.evaluation.report.tables import Row, Table, cell_text, pairs_table, success_table
from spatialvla.evaluation.results.comparison import Comparison
from spatialvla.evaluation.results.document import Results


def to_markdown(summary: Summary, evaluations: bool = True) -> str:
    """A summary's tables, texts and sources. evaluations: False leaves out how each was measured."""
    parts = [f"# {markdown(summary.title)}", markdown(summary.subtitle)]
    if summary.comparison:
        parts += _comparison(summary.comparison)
    for table in summary.tables:
        parts += [f"## {markdown(table.title)}", markdown_table(table), table.note]
    if evaluations:
        for results in summary.evaluations:
            parts += _evaluation(results)
    if summary.sources:
        listed = (f"{number}. [{each.title}]({each.url})" for number, each in enumerate(summary.sources, 1))
        parts += ["## Sources of the published figures", "\n".join(listed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """The table alone; the rows' small print, where there is any, is a last column without a heading."""
    detailed = any(row.detail for row in table.rows)
    titles = [table.label, *(column.title for column in table.columns)]
    rules = ["---", *("---:" for _ in table.columns)]
    if detailed:
        titles, rules = [*titles, ""], [*rules, "---"]
    rows = [*table.rows, table.total] if table.total else table.rows
    lines = [_line(titles), f"|{'|'.join(rules)}|"]
    for row in rows:
        cells = [_label(row), *map(cell_text, row.cells)]
        lines.append(_line([*cells, markdown(row.detail)] if detailed else cells))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _label(row: Row) -> str:
    label = f"**{markdown(row.label)}**" if row.ours else markdown(row.label)
    return f"{label} [{row.source}]" if row.source else label


def _evaluation(results: Results) -> list[str]:
    table = success_table(results)
    return [f"## {markdown(table.title)}", markdown_table(table), _pairs(facts(results))]


def _comparison(comparison: Comparison) -> list[str]:
    table, also = pairs_table(comparison), caveats(comparison)
    parts = [
        f"## {markdown(table.title)}",
        markdown(comparison.verdict()),
        _pairs(key_numbers(comparison)),
        markdown_table(table),
    ]
    if also:
        parts += ["These differ, too:", "\n".join(f"- {markdown(each)}" for each in also)]
    return parts


def _pairs(named: dict[str, str]) -> str:
    return "\n".join(f"- {markdown(name)}: {markdown(value)}" for name, value in named.items())
