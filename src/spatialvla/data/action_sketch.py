"""Action statistics of datasets of any size, in one pass that can be split and merged."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from spatialvla.actions.grids import checked_actions
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.data.draws import scrambled
from spatialvla.errors import InputError

SAMPLE = 1 << 17
"""Actions kept. Of more, q01 and q99 are those of a sample: off by 0.03 % of the ranks (one sigma)."""

_KEY = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class ActionSketch:
    """What has been seen of a dataset's actions so far.

    Moments and extremes are exact. Quantiles, and the Gaussians of the grid (they need q01 and q99 first),
    come from the actions whose numbers have the smallest hashes: a uniform sample that is the same however
    the dataset is split, and exact while there are at most SAMPLE actions.
    """

    episodes: int = 0
    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(7))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(7))  # sum of squared deviations
    low: np.ndarray = field(default_factory=lambda: np.full(7, np.inf))
    high: np.ndarray = field(default_factory=lambda: np.full(7, -np.inf))
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    sample: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))

    def add(self, actions: np.ndarray, episode: int) -> None:
        """One episode's actions (T, 7). Raises InputError on other shapes, NaN or infinity."""
        values = checked_actions(actions).astype(np.float64)
        if values.ndim != 2:
            raise InputError(f"The actions of an episode have the shape (T, 7), not {values.shape}.")
        if len(values):
            other = ActionSketch(
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

    def merge(self, other: ActionSketch) -> None:
        """Takes in what another sketch saw, of other episodes of the same dataset (Chan et al. 1979)."""
        total = self.count + other.count
        if not other.count:
            return
        shift = other.mean - self.mean
        self.mean = self.mean + shift * (other.count / total)
        self.squares = self.squares + other.squares + shift**2 * (self.count * other.count / total)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.count, self.episodes = total, self.episodes + other.episodes
        hashes = np.concatenate([self.hashes, other.hashes])
        sample = np.concatenate([self.sample, other.sample])
        if len(hashes) > SAMPLE:
            kept = np.argpartition(hashes, SAMPLE)[:SAMPLE]
            hashes, sample = hashes[kept], sample[kept]
        self.hashes, self.sample = hashes, sample

    def statistics(self) -> ActionStatistics:
        """Raises InputError where there were no actions."""
        if not self.count:
            raise InputError("The dataset has no actions to make statistics of; leave it out.")
        q01, q99 = np.quantile(self.sample, [0.01, 0.99], axis=0)
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


def _hashes(episode: int, length: int) -> np.ndarray:
    """(length,) uint64, well mixed, of the actions' numbers in the dataset."""
    return scrambled((np.uint64(episode) << np.uint64(32)) + np.arange(length, dtype=np.uint64), _KEY)
