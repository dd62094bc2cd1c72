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

    def note(self, loaded: LoadedBatch) -> None:
        """A batch of training: its replaced samples are counted, and told of."""
        self.count += sum(map(bool, loaded.replaced))
        self._tell(loaded)

    def told(self, batches: Iterable[LoadedBatch]) -> Iterator[LoadedBatch]:
        """The same batches, which are not counted; their replaced samples are told of."""
        for loaded in batches:
            self._tell(loaded)
            yield loaded

    def since_last(self) -> int:
        """Those counted since this was asked before."""
        new, self._logged = self.count - self._logged, self.count
        return new

    def _tell(self, loaded: LoadedBatch) -> None:
        """Warns of the first damage of each dataset."""
        for key, reason in zip(loaded.keys, loaded.replaced, strict=False):
            if reason and key not in self._told:
                self._told.add(key)
                log.warning(
                    "A sample of %s is damaged: %s; another one takes its place. Further ones are only counted.",
                    key,
                    reason.rstrip("."),
                )
