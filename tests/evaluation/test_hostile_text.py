"""What a dataset, a checkpoint or a result says, as the command line prints it."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from some_results import some_results

from spatialvla.cli.main import main
from spatialvla.common.terminal import Terminal
from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import success_table
from spatialvla.evaluation.report.terminal import terminal_table

HOSTILE = "pick [/bold] \x1b]0;owned\x07\n| forged | 100 % |<script>"


@pytest.fixture
def results():
    return replace(some_results("+-"), tasks={0: HOSTILE}, policy=HOSTILE)


def test_tables_of_results(results):
    lines = markdown_table(success_table(results)).splitlines()
    clean = markdown_table(success_table(replace(results, tasks={0: "a"}, policy="b"))).splitlines()
    assert len(lines) == len(clean)
    assert [line.replace(r"\|", "").count("|") for line in lines] == [line.count("|") for line in clean]
    assert all(line.isprintable() and "<script" not in line.replace(r"\<", "") for line in lines)
    console: Console = Terminal(file=io.StringIO(), force_terminal=True, width=300)
    console.print(terminal_table(success_table(results)))
    written = console.file.getvalue()
    assert "\x1b]" not in written
    assert "[/bold]" in written


def test_an_error_that_quotes_a_name_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "inspect", "--dataset", str(tmp_path / "a\x1b]0;owned\x07\nspatialvla: all is well")])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.strip().isprintable()
