"""Which episodes are kept from training, to measure on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from spatialvla.data.draws import scrambled


def held_out_of(
    sampled: Sequence[np.ndarray],
    tasks: Sequence[np.ndarray],
    origins: Sequence[str],
    views: Sequence[int],
    fraction: float,
    seed: int,
) -> list[np.ndarray]:
    """(E,) bool of each dataset: a fraction of its episodes, at least one of several, about the same of each task.

    What is chosen of a dataset does not depend on others, except that those of one origin keep the same episodes from
    training, however they are seen.
    sampled: (E,) bool of each, whether an episode has samples. tasks: (E,) int of each, numbers of instructions, of
    which those of an origin's first dataset count. origins: what each was read from. views: how many of its rows in
    turn are one episode.
    """
    places = [
        (origin, len(rows) // cameras) for origin, rows, cameras in zip(origins, sampled, views, strict=True)
    ]
    usable = {place: np.zeros(place[1], bool) for place in places}
    known: dict[tuple[str, int], np.ndarray] = {}
    for place, rows, of_rows, cameras in zip(places, sampled, tasks, views, strict=True):
        usable[place] |= rows.reshape(-1, cameras).any(axis=1)
        known.setdefault(place, of_rows[::cameras])
    chosen = {place: _chosen(usable[place], known[place], fraction, seed, place[0]) for place in usable}
    return [chosen[place].repeat(cameras) for place, cameras in zip(places, views, strict=True)]


def _chosen(usable: np.ndarray, tasks: np.ndarray, fraction: float, seed: int, origin: str) -> np.ndarray:
    numbers, chosen = np.flatnonzero(usable), np.zeros(len(usable), bool)
    if fraction > 0 and len(numbers) > 1:
        many = min(max(round(fraction * len(numbers)), 1), len(numbers) - 1)
        rng = np.random.default_rng([seed, zlib.crc32(origin.encode())])
        shuffled = rng.permutation(numbers)
        order = scrambled(tasks[shuffled], rng.integers(2**63, dtype=np.uint64))
        by_task = shuffled[np.argsort(order, kind="stable")]
        chosen[by_task[((np.arange(many) + rng.random()) / many * len(numbers)).astype(int)]] = True
    return chosen
