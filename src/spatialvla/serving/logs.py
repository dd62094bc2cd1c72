"""A server's log: one line for each connection and each refusal, as text or JSON, with clients' text escaped."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from spatialvla.common.terminal import shown

LogFormat = Literal["text", "json"]

_LONGEST = 1000
_BURST, _A_SECOND = 50, 10
_FIELDS = ("event", "client", "reason", "answers", "seconds", "unsaid")

log = logging.getLogger("spatialvla.serving")


def printable(text: str) -> str:
    """Text on one line, with whatever could move a cursor, color a terminal or forge a line escaped; not endless."""
    return shown(text[:_LONGEST]) + ("…" if len(text) > _LONGEST else "")


class TextFormatter(logging.Formatter):
    """A time, a level and a message, on one line; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        message = printable(record.getMessage())
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message}"
        if record.exc_info:
            lines = self.formatException(record.exc_info).splitlines()
            line += "".join(f"\n    {printable(each)}" for each in lines)
        return line


class JsonFormatter(logging.Formatter):
    """A JSON object on one line, with what is known of the client beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        content: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:_LONGEST],
        }
        content.update({name: vars(record)[name] for name in _FIELDS if name in vars(record)})
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content)


def log_to_stderr(form: LogFormat) -> None:
    """Writes the log of this process to stderr: warnings of all, connections of the server."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler])
    log.setLevel(logging.INFO)


@dataclass
class ClientLog:
    """What is told of clients. Of a flood, ten lines a second are written, and how many were not."""

    clock: Callable[[], float] = monotonic
    _tokens: float = field(default=_BURST, init=False)
    _then: float = field(default=0.0, init=False)
    _unsaid: int = field(default=0, init=False)

    def connected(self, client: str) -> None:
        """A client has come."""
        self._say(logging.INFO, "%s connected.", client, event="connected", client=client)

    def gone(self, client: str, answers: int, seconds: float) -> None:
        """A client has gone, after so many answers in so many seconds."""
        self._say(
            logging.INFO,
            "%s has gone after %d answers in %.1f s.",
            *(client, answers, seconds),
            event="gone",
            client=client,
            answers=answers,
            seconds=round(seconds, 3),
        )

    def refused(self, client: str, reason: str, sentence: str = "") -> None:
        """A client was not let in, or a message of it was not answered with actions."""
        said = f": {sentence}" if sentence else "."
        self._say(
            logging.WARNING,
            "%s was refused (%s)%s",
            *(client, reason, said),
            event="refused",
            client=client,
            reason=reason,
        )

    def _say(self, level: int, message: str, *arguments: object, **known: object) -> None:
        now = self.clock()
        self._tokens = min(_BURST, self._tokens + (now - self._then) * _A_SECOND)
        self._then = now
        if self._tokens < 1:
            self._unsaid += 1
            return
        self._tokens -= 1
        if self._unsaid:
            message += f" ({self._unsaid} lines before this one were left out.)"
            known["unsaid"], self._unsaid = self._unsaid, 0
        log.log(level, message, *arguments, extra=known)
