"""Statistics of a dataset's actions and states, of any size, in one pass that can be split and merged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.data.draws import scrambled
from spatialvla.errors import InputError

SAMPLE = 1 << 17
"""Steps kept. Of more, q01 and q99 are those of a sample: off by 0.03 % of the ranks (one sigma)."""

_KEY = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class Sketch:
    """What has been seen of the `size` numbers of a dataset's steps so far.

    Moments and extremes are exact. Quantiles, and the Gaussians of the grid (they need q01 and q99 first),
    come from the steps whose numbers have the smallest hashes: a uniform sample that is the same however
    the dataset is split, and exact while there are at most SAMPLE steps.
    """

    size: int
    episodes: int = 0
    count: int = 0
    mean: np.ndarray = field(
        default_factory=lambda: np.zeros(())
    )  # (size,) once there is a step, as all below
    squares: np.ndarray = field(default_factory=lambda: np.zeros(()))  # sum of squared deviations
    low: np.ndarray = field(default_factory=lambda: np.full((), np.inf))
    high: np.ndarray = field(default_factory=lambda: np.full((), -np.inf))
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    sample: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, steps: np.ndarray, episode: int) -> None:
        """One episode's (T, size) numbers. Raises InputError on other shapes, NaN or infinity."""
        values = np.asarray(steps, np.float64)
        if values.ndim != 2 or values.shape[1] != self.size:
            raise InputError(
                f"The {self._what} of an episode have the shape (T, {self.size}), not {values.shape}."
            )
        if not np.isfinite(values).all():
            raise InputError(f"The {self._what} of an episode must be finite; leave it out.")
        if len(values):
            other = type(self)(
                size=self.size,
                episodes=1,
                count=len(values),
                mean=values.mean(0),
                squares=((values - values.mean(0)) ** 2).sum(0),
                low=values.min(0),
                high=values.max(0),
                hashes=_hashes(episode, len(values)),
                sample=values,
            )
            self.merge(other)

    def merge(self, other: Self) -> None:
        """Takes in what another sketch saw, of other episodes of the same dataset (Chan et al. 1979)."""
        total = self.count + other.count
        if not other.count:
            return
        shift = other.mean - self.mean
        self.mean = self.mean + shift * (other.count / total)
        self.squares = self.squares + other.squares + shift**2 * (self.count * other.count / total)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        hashes = np.concatenate([self.hashes, other.hashes])
        sample = np.concatenate([self.sample, other.sample]) if self.count else other.sample
        self.count, self.episodes = total, self.episodes + other.episodes
        if len(hashes) > SAMPLE:
            kept = np.argpartition(hashes, SAMPLE)[:SAMPLE]
            hashes, sample = hashes[kept], sample[kept]
        self.hashes, self.sample = hashes, sample

    @property
    def _what(self) -> str:
        """What the numbers are, as sentences call them."""
        return "numbers"

    def _quantiles(self) -> tuple[np.ndarray, np.ndarray]:
        """q01 and q99. Raises InputError where nothing was seen."""
        if not self.count:
            raise InputError(f"The dataset has no {self._what} to make statistics of; leave it out.")
        q01, q99 = np.quantile(self.sample, [0.01, 0.99], axis=0)
        return q01, q99


@dataclass
class ActionSketch(Sketch):
    """Of actions (T, 7)."""

    size: int = 7

    @property
    def _what(self) -> str:
        return "actions"

    def statistics(self) -> ActionStatistics:
        """Raises InputError where there were no actions."""
        q01, q99 = self._quantiles()
        return ActionStatistics(
            q01=q01,
            q99=q99,
            mean=self.mean,
            std=np.sqrt(self.squares / self.count),
            min=self.low,
            max=self.high,
            mask=np.arange(7) < 6,
            num_trajectories=self.episodes,
            num_transitions=self.count,
        )


@dataclass
class StateSketch(Sketch):
    """Of the arm's states (T, size)."""

    @property
    def _what(self) -> str:
        return "states"

    def statistics(self) -> StateStatistics:
        """Raises InputError where there were no states."""
        return StateStatistics(*self._quantiles())


def _hashes(episode: int, length: int) -> np.ndarray:
    """(length,) uint64, well mixed, of the steps' numbers in the dataset."""
    return scrambled((np.uint64(episode) << np.uint64(32)) + np.arange(length, dtype=np.uint64), _KEY)
