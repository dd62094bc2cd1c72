"""Published success rates, each with its source, as the tables they are published in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal


@dataclass(frozen=True)
class Source:
    """Where figures come from."""

    title: str
    url: str


@dataclass(frozen=True)
class PublishedColumn:
    """One column of a table.

    suite: whose episodes it is about. task: a piece of the instruction of the only task it is about; None for
    all.
    measure: what is counted, success or at least partial success.
    """

    title: str
    suite: str
    task: str | None = None
    measure: Literal["success", "partial"] = "success"


@dataclass(frozen=True)
class PublishedRow:
    """One method's published success rates.

    percent: for each column, in percent as printed; None where the source has none. average: as printed, too.
    spread: the ± of each, in percent. episodes: for each column, where the source says so.
    """

    method: str
    source: Source
    percent: tuple[float | None, ...]
    average: float | None = None
    spread: tuple[float, ...] | None = None
    episodes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """A benchmark's columns and what was published for them. note: what to know of the figures."""

    name: str
    columns: tuple[PublishedColumn, ...]
    rows: tuple[PublishedRow, ...]
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.percent) != len(self.columns):
                raise ValueError(f"{self.name}: {row.method} has {len(row.percent)} figures.")

    @property
    def suites(self) -> list[str]:
        """The suites its columns are about, each once."""
        return list(dict.fromkeys(column.suite for column in self.columns))


def published_tables() -> list[PublishedTable]:
    """All tables of `assets/published_results.json`."""
    text = (files("spatialvla") / "assets" / "published_results.json").read_text(encoding="utf-8")
    document = json.loads(text)
    sources = {name: Source(**entry) for name, entry in document["sources"].items()}
    return [_table(entry, sources) for entry in document["tables"]]


def _table(entry: dict[str, Any], sources: dict[str, Source]) -> PublishedTable:
    columns = tuple(PublishedColumn(**column) for column in entry["columns"])
    rows = tuple(_row(row, sources) for row in entry["rows"])
    return PublishedTable(entry["name"], columns, rows, entry.get("note", ""))


def _row(entry: dict[str, Any], sources: dict[str, Source]) -> PublishedRow:
    spread = tuple(entry["spread"]) if "spread" in entry else None
    known = {
        **entry,
        "source": sources[entry["source"]],
        "percent": tuple(entry["percent"]),
        "spread": spread,
    }
    return PublishedRow(**known)
