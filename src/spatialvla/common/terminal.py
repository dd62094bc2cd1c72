"""Text of others on a terminal, in a log or a table: shown letter by letter, never obeyed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment


def shown(text: object, keep: str = "") -> str:
    r"""A text in one line: what a terminal would obey is written as Python would, an escape as \x1b.

    keep: characters that stay as they are.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(letter if letter in keep or letter.isprintable() else _escape(letter) for letter in plain)


def markdown(text: object) -> str:
    """A text as part of a Markdown table's cell or a line: it can neither end the cell nor become HTML."""
    return shown(text).replace("|", r"\|").replace("<", r"\<")


class Terminal(Console):
    """A console that takes text as text: no markup in brackets, no emoji between colons, and no escapes in it."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        """options: others of rich's console."""
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As of the console, its texts `shown`."""
        for segment in super().render(renderable, options):
            if segment.control or not segment.text:
                yield segment
            else:
                yield Segment(shown(segment.text, keep="\n"), segment.style)


class LogFormatter(logging.Formatter):
    """A log's lines, each message in one of them whatever it quotes."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """As of the formatter, of the message `shown`."""
        record.message = shown(record.message)
        return super().formatMessage(record)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")
