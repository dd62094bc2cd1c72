"""How sure a success rate and a difference of two are: Wilson's and Newcombe's intervals, McNemar's test."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_Z95 = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a success probability (Wilson 1927); (0, 1) before the first trial."""
    if trials == 0:
        return 0.0, 1.0
    rate, square = successes / trials, _Z95**2
    center = (rate + square / (2 * trials)) / (1 + square / trials)
    half = _Z95 / (1 + square / trials) * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials**2))
    # Rounding must not push the ends past the rate itself where they meet, at 0 and 1.
    return max(0.0, min(rate, center - half)), min(1.0, max(rate, center + half))


@dataclass(frozen=True)
class Pairs:
    """Outcomes of two policies on the same episodes.

    both, first, second, neither: how many episodes both, only the first, only the second, none succeeded in.
    """

    both: int
    first: int
    second: int
    neither: int

    @classmethod
    def of(cls, outcomes: Iterable[tuple[bool, bool]]) -> Pairs:
        """Counts pairs of outcomes, the first policy's before the second's."""
        counts = Counter(outcomes)
        return cls(
            both=counts[True, True],
            first=counts[True, False],
            second=counts[False, True],
            neither=counts[False, False],
        )

    def __add__(self, other: Pairs) -> Pairs:
        """The pairs of both together."""
        return Pairs(
            self.both + other.both,
            self.first + other.first,
            self.second + other.second,
            self.neither + other.neither,
        )

    @property
    def trials(self) -> int:
        """How many episodes both policies played."""
        return self.both + self.first + self.second + self.neither

    @property
    def rates(self) -> tuple[float, float]:
        """Success rates of the first and the second policy; 0 without trials."""
        if not self.trials:
            return 0.0, 0.0
        return (self.both + self.first) / self.trials, (self.both + self.second) / self.trials

    @property
    def difference(self) -> float:
        """Rate of the second minus rate of the first, in [-1, 1]."""
        return (self.second - self.first) / self.trials if self.trials else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference of two paired proportions (Newcombe 1998, method 10).

        Wilson's intervals of the two rates, combined with the correlation of the outcomes, which is shrunk
        by n/2 where it is positive. (-1, 1) before the first trial.
        """
        if not self.trials:
            return -1.0, 1.0
        (first, second), delta = self.rates, self.difference
        low1, high1 = wilson_interval(self.both + self.first, self.trials)
        low2, high2 = wilson_interval(self.both + self.second, self.trials)
        phi = self._correlation()

        def distance(own: float, other: float) -> float:
            return math.sqrt(max(0.0, own**2 - 2 * phi * own * other + other**2))

        low = delta - distance(second - low2, high1 - first)
        high = delta + distance(high2 - second, first - low1)
        return max(-1.0, low), min(1.0, high)

    @property
    def p_value(self) -> float:
        """Two-sided exact McNemar test: how likely so uneven a split of the discordant pairs is by chance.

        Conditional on their number, each discordant pair falls to either side with probability 1/2.
        """
        discordant, fewer = self.first + self.second, min(self.first, self.second)
        tail = sum(math.comb(discordant, count) for count in range(fewer + 1))
        return min(1.0, 2 * tail / (1 << discordant))

    def _correlation(self) -> float:
        product = (self.both + self.first) * (self.second + self.neither)
        product *= (self.both + self.second) * (self.first + self.neither)
        if not product:
            return 0.0
        covariance: float = self.both * self.neither - self.first * self.second
        if covariance > 0:
            covariance = max(0.0, covariance - self.trials / 2)
        return covariance / math.sqrt(product)
