"""An RLDS dataset with its spec, as a source of episodes in the form that training knows."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cached_property
from pathlib import Path

from spatialvla.data.oxe.episode import StandardEpisode, standardise
from spatialvla.data.oxe.specs import RLDSSpec, rlds_spec
from spatialvla.data.rlds import RLDSDataset
from spatialvla.data.rlds.reader import OnBad
from spatialvla.errors import InputError

_THREADS = 32  # waiting for the storage, not for the processor


class OXESource:
    """One split of an Open X-Embodiment dataset as TFDS stores it, local or at any fsspec URL.

    broken: one sentence for each shard of which only a part can be read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        spec: RLDSSpec | str | None = None,
        split: str = "train",
        on_bad: OnBad = "raise",
        cache: Path | None = None,
    ) -> None:
        """spec: one, or its name; found by the dataset's own name unless given. cache: of the index of records.

        Raises InputError where there is no spec or the dataset lacks what it names; see `RLDSDataset`, too.
        """
        self._arguments = (root, spec, split, on_bad, cache)
        self.dataset = RLDSDataset(root, split, on_bad, cache)
        self.spec = spec if isinstance(spec, RLDSSpec) else rlds_spec(spec or self.dataset.name)
        wanted = [f"steps/{key}" for key in (self.spec.image, *self.spec.inputs)]
        if missing := [key for key in wanted if key not in self.dataset.specs]:
            raise InputError(
                f"{self.dataset.storage.root} has no '{missing[0]}', which the spec of {self.spec.key} names; it has "
                f"{', '.join(self.dataset.specs)}."
            )

    def __reduce__(self) -> tuple[object, ...]:
        return OXESource, self._arguments

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def control_hz(self) -> float:
        return float(self.spec.control_hz)

    @property
    def broken(self) -> tuple[str, ...]:
        return self.dataset.broken

    @cached_property
    def fingerprint(self) -> str:
        """Of the shards' sizes and times, and of the spec."""
        storage, shards = self.dataset.storage, self.dataset.shards
        with ThreadPoolExecutor(min(_THREADS, len(shards))) as pool:
            stamps = list(pool.map(storage.fingerprint, shards))
        parts = [*stamps, *(_described(self.spec, entry.name) for entry in fields(self.spec))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def __len__(self) -> int:
        return len(self.dataset)

    def episode(self, index: int) -> StandardEpisode:
        """Any episode. Raises InputError for a wrong index, BadRecord, naming shard and offset, for damaged data."""
        return standardise(self.spec, self.dataset.episode(index))


def _described(spec: RLDSSpec, name: str) -> str:
    """A field in words that are the same in every process: functions by their name, cameras by their numbers."""
    value = getattr(spec, name)
    if name == "camera" and value is not None:
        value = value.to_json()
    return f"{name} {getattr(value, '__qualname__', value)}"
