"""A batch as training steps get it: what enters the model, and where each sample is from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialvla.batch import Batch
from spatialvla.errors import InputError
from spatialvla.model.config import PUBLISHED_CAMERAS


@dataclass(frozen=True)
class LoadedBatch:
    """What a training step gets: B samples, and where they are from.

    actions: (B, chunk, 7) in the datasets' units. keys: of each sample's dataset. source, episode, step: (B,)
    int64 number of the dataset, of its episode and of the step. replaced: of each sample
    why the one that was drawn is damaged, so that this one takes its place; "" where it is that one.
    cameras: of the batch's V images, in order; those that no sample has are not among them.
    """

    batch: Batch
    actions: np.ndarray
    keys: tuple[str, ...]
    source: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    replaced: tuple[str, ...] = ()
    cameras: tuple[str, ...] = PUBLISHED_CAMERAS

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def names(self) -> tuple[str, ...]:
        """Of each sample, "<key> episode <i> step <t>"."""
        rows = zip(self.keys, self.episode.tolist(), self.step.tolist(), strict=True)
        return tuple(f"{key} episode {episode} step {step}" for key, episode, step in rows)

    @property
    def label_count(self) -> int:
        """Tokens on which a loss is taken."""
        return 0 if self.batch.labels is None else int((self.batch.labels >= 0).sum())

    def split(self, parts: int) -> list[LoadedBatch]:
        """Equal parts, in order. Raises InputError where they cannot be equal."""
        size, rest = divmod(len(self), parts)
        if rest:
            raise InputError(f"A batch of {len(self)} cannot be split into {parts} equal parts.")
        return [self._rows(slice(start, start + size)) for start in range(0, len(self), size)]

    def _rows(self, rows: slice) -> LoadedBatch:
        return LoadedBatch(
            self.batch[rows],
            self.actions[rows],
            self.keys[rows],
            self.source[rows],
            self.episode[rows],
            self.step[rows],
            self.replaced[rows],
            self.cameras,
        )
