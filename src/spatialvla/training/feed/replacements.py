"""Samples that stand for damaged ones: a warning for each dataset, and how many there were."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from spatialvla.data.loaded_batch import LoadedBatch

log = logging.getLogger(__name__)


class Replacements:
    """What one rank has met. count: of training's samples so far, those that were replaced."""

    def __init__(self) -> None:
        self.count = 0
        self._told: set[str] = set()
        self._logged = 0

    def counted(self, batches: Iterable[LoadedBatch]) -> Iterator[LoadedBatch]:
        """The same batches, of training: told of and counted."""
        for loaded in self.told(batches):
            self.count += sum(map(bool, loaded.replaced))
            yield loaded

    def told(self, batches: Iterable[LoadedBatch]) -> Iterator[LoadedBatch]:
        """The same batches; the first damage of each dataset is warned of."""
        for loaded in batches:
            for key, reason in zip(loaded.keys, loaded.replaced, strict=False):
                if reason and key not in self._told:
                    self._told.add(key)
                    log.warning(
                        "A sample of %s is damaged: %s; another one takes its place. Further ones are only counted.",
                        key,
                        reason.rstrip("."),
                    )
            yield loaded

    def since_last(self) -> int:
        """Those counted since this was asked before."""
        new, self._logged = self.count - self._logged, self.count
        return new
