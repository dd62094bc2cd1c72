"""Tables of success on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable

from spatialvla.common.terminal import shown
from spatialvla.evaluation.report.exam_table import exam_table
from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import Table, cell_text, success_table
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.exam_scores import is_exam


def print_success(results: Results, console: Console) -> None:
    """The success table, and the exam's scores: drawn on a terminal, else as Markdown, which a file can keep."""
    tables = [success_table(results), *([exam_table(results)] if is_exam(results) else [])]
    for table in tables:
        if console.is_terminal:
            console.print(terminal_table(table))
        else:
            print(markdown_table(table))


def terminal_table(table: Table) -> RichTable:
    """The table as rich draws it, its total in bold below a line."""
    drawn = RichTable(title=shown(table.title), title_justify="left")
    drawn.add_column(table.label, overflow="fold")
    for column in table.columns:
        drawn.add_column(column.title, justify="right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(shown(row.label), *map(cell_text, row.cells))
    if table.total:
        drawn.add_section()
        drawn.add_row(shown(table.total.label), *map(cell_text, table.total.cells), style="bold")
    return drawn
