"""Latency: how late chunks come in a simulated world that does not wait, always the same or as measured."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from spatialvla.errors import InputError
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla_client.asynchronous import LATENCY_QUANTILE

MOST_STEPS = 50
"""Control steps that a chunk may be late; what comes later is of no use to a robot."""

COLUMN = "latency_ms"
"""What measured latencies are called in a file."""

_LARGEST_FILE = 2**24


@dataclass(frozen=True)
class Latency:
    """Control steps from an observation until its chunk takes over.

    counts: how often it is 0, 1, 2 … steps; episodes draw from these. Raises InputError where there is nothing to
    draw, or something is later than MOST_STEPS.
    """

    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(count < 0 for count in self.counts) or sum(self.counts) == 0:
            raise InputError("A latency needs at least one value, and counts of 0 or more.")
        if len(self.counts) > MOST_STEPS + 1:
            raise InputError(
                f"A latency of {len(self.counts) - 1} control steps is too long to play; at most {MOST_STEPS}."
            )

    @classmethod
    def always(cls, steps: int) -> Self:
        """The same at each decision. Raises InputError above MOST_STEPS."""
        return cls((0,) * min(steps, MOST_STEPS + 1) + (1,))

    @classmethod
    def measured(cls, milliseconds: Sequence[float], control_hz: float) -> Self:
        """As measured, rounded up: a chunk takes over at the first control step after it has come.

        Raises InputError where none were measured, for what is no time, and above MOST_STEPS.
        """
        for each in milliseconds:
            if not 0 <= each < math.inf:
                raise InputError(f"A latency is a number of milliseconds, 0 or more, not {each:g}.")
        steps = np.ceil(np.array(milliseconds, float) * control_hz / 1000 - 1e-6)
        if steps.max(initial=0) > MOST_STEPS:
            raise InputError(
                f"A latency of {max(milliseconds):g} ms is {steps.max():g} control steps, too long to play; at most "
                f"{MOST_STEPS}."
            )
        return cls(tuple(np.bincount(steps.astype(int)).tolist()))

    @classmethod
    def parse(cls, text: str, control_hz: float) -> Self:
        """`3`: always three control steps; else a JSON or CSV file of measured milliseconds.

        Raises InputError for anything else.
        """
        if text.strip().isdecimal():
            return cls.always(int(text))
        path = Path(text)
        if path.suffix not in (".json", ".csv"):
            raise InputError(
                f"A latency is a whole number of control steps, or a .json or .csv file of measured milliseconds, "
                f"not {text!r}."
            )
        try:
            return cls.measured(_read(path), control_hz)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @property
    def expected(self) -> int:
        """Steps that a robot counts on, as the client's asynchronous loop does: nine in ten chunks have come."""
        steps = np.repeat(np.arange(len(self.counts)), self.counts)
        return int(np.quantile(steps, LATENCY_QUANTILE, method="higher"))

    def draw(self, episode: EpisodeId) -> Iterator[int]:
        """The latency of one decision after the other, the same each time the episode is played."""
        bounds = np.cumsum(self.counts)
        random = np.random.default_rng(episode)
        while True:
            yield int(np.searchsorted(bounds, random.integers(bounds[-1]), side="right"))

    def __str__(self) -> str:
        """`3 control steps late`, or `1 to 4 control steps late (measured: 20 × 1, 10 × 4)`."""
        there = {steps: count for steps, count in enumerate(self.counts) if count}
        least, most = min(there), max(there)
        words = f"{most} control {'step' if most == 1 else 'steps'} late"
        if len(there) == 1:
            return words
        listed = ", ".join(f"{count} × {steps}" for steps, count in there.items())
        return f"{least} to {words} (measured: {listed})"


def _read(path: Path) -> list[float]:
    """Milliseconds of a file: a list, or what is called `latency_ms` in it."""
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError("The file is too large to hold latencies.")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"It cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'}).") from None
    values = _json_values(text) if path.suffix == ".json" else _csv_values(text)
    try:
        found = [float(value) for value in values if not isinstance(value, bool)]
    except (TypeError, ValueError, OverflowError):
        found = []
    if not found or len(found) != len(values):
        raise InputError(f"It needs a list or column {COLUMN} of numbers, in milliseconds.")
    return found


def _json_values(text: str) -> list[Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("It is no JSON.") from None
    values = document.get(COLUMN) if isinstance(document, dict) else document
    return values if isinstance(values, list) else []


def _csv_values(text: str) -> list[Any]:
    try:
        return [row.get(COLUMN) for row in csv.DictReader(text.splitlines())]
    except csv.Error:
        raise InputError("It is no CSV.") from None
