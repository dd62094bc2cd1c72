"""Success rates on a page: the number, its interval in words, and the interval as a bar."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Successes among trials with the 95 % interval (low, high) of the success probability."""

    successes: int
    trials: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.successes / self.trials if self.trials else 0.0


def percent(rate: Rate) -> str:
    """The rate as text; a dash before the first trial."""
    return f"{rate.value:.0%}" if rate.trials else "–"


def range_words(rate: Rate) -> str:
    """The interval in words."""
    return f"95 % interval {100 * rate.low:.0f} to {100 * rate.high:.0f} %"


def interval_bar(rate: Rate) -> str:
    """The interval from 0 to 100 % as HTML, the rate as a dot on it."""
    style = f"--low:{rate.low:.1%};--high:{rate.high:.1%};--rate:{rate.value:.1%}"
    return f'<div class="interval" style="{style}"><span></span><i></i></div>'
