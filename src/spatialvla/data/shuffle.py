"""A shuffle that is computed, not stored: any place of a permutation of any length, in constant memory."""

from __future__ import annotations

import numpy as np

_ROUNDS = 6


class Permutation:
    """A pseudo-random permutation of 0 … size - 1, given by its key alone.

    A Feistel network on the smallest even number of bits that covers `size`; a result beyond it is permuted again
    until it lies inside (cycle walking, Black & Rogaway 2002), less than four times in the mean.
    """

    def __init__(self, size: int, *key: int) -> None:
        self.size = size
        self._half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
        self._keys = np.random.default_rng(key).integers(0, 2**63, _ROUNDS, dtype=np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """(N,) int64 places in [0, size) -> what stands there, (N,) int64."""
        values = np.asarray(places, dtype=np.uint64)
        values = self._mixed(values)
        while (outside := values >= self.size).any():
            values[outside] = self._mixed(values[outside])
        return values.astype(np.int64)

    def _mixed(self, values: np.ndarray) -> np.ndarray:
        half, low = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = values >> half, values & low
        for key in self._keys:
            left, right = right, left ^ (scrambled(right, key) & low)
        return left << half | right


def scrambled(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """uint64 -> uint64, every bit depending on all (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = values + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
