"""Text of others in terminals, logs and tables: seen, not obeyed."""

import io
import logging

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

from spatialvla.common.terminal import LogFormatter, Terminal, markdown, shown

TITLE, CLIPBOARD = "\x1b]0;owned\x07", "\x1b]52;c;cm0gLXJm\x07"
HOSTILE = [
    TITLE,
    CLIPBOARD,
    "\x1b[2J\x1b[31mred",
    "a\nb",
    "a\r\nforged | 100 %",
    "a\u2028b",
    "\u202eesrever",
    "\x9b31m",
    "a\x08\x08b",
    "[/bold]",
    "[link=https://example.org]x[/link]",
    ":warning:",
    "\ud800",
    "\x00",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_shown_does_nothing(text):
    assert shown(text).isprintable()
    assert markdown(f"{text} | x").replace(r"\|", "").isprintable()
    assert "|" not in markdown(f"{text} | x").replace(r"\|", "")


@pytest.mark.parametrize("text", ["pick up the cube", "naïve — 拾う Δ ✓ 🤖", "C:\\a [b] {c}", ""])
def test_what_is_plain_stays(text):
    assert shown(text) == text


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_takes_text_as_text(text, terminal):
    file = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="replace")
    console = Terminal(file=file, force_terminal=terminal, width=200)
    console.print(text, soft_wrap=True)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    with Progress(TextColumn("{task.description}", markup=False), console=console) as bar:
        bar.add_task(text)
    file.flush()
    written = file.buffer.getvalue().decode()
    assert not any(
        start in written for start in ("\x1b]", "\x1b[2J\x1b[31m", "\x9b", "\x07", "\u202e", "\x08", "\x00")
    )
    if text.startswith(("[", ":")):
        assert text in written


def test_our_own_styles_and_lines_stay():
    file = io.StringIO()
    Terminal(file=file, force_terminal=True, color_system="standard").print("one\ntwo", style="bold")
    assert "one" in file.getvalue()
    assert "\x1b[1m" in file.getvalue()
    assert file.getvalue().count("\n") == 2


def test_a_log_message_is_one_line():
    record = logging.LogRecord("a", logging.INFO, "", 0, "client %s", (f"{TITLE}x\ny",), None)
    assert LogFormatter("%(name)s: %(message)s").format(record) == r"a: client \x1b]0;owned\x07x\ny"
