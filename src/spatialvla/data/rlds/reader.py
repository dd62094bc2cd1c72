"""Read an RLDS dataset as TFDS stores it, an episode a record, in any order."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from spatialvla.common.cache_folder import cache_folder
from spatialvla.data.rlds import features
from spatialvla.data.rlds.example import FeatureList, parse_example
from spatialvla.data.rlds.features import FeatureSpec, parse_features
from spatialvla.data.rlds.storage import Storage
from spatialvla.data.rlds.tfrecord import BadRecord, ShardIndex, cached_index, read_record
from spatialvla.errors import CheckpointError, InputError

OnBad = Literal["raise", "skip"]
_SHARD = re.compile(r"-(?P<split>[^-]+)\.tfrecord-(?P<number>\d+)-of-(?P<count>\d+)$")
_THREADS = 32  # indexing waits for the storage, not for the processor


@dataclass(frozen=True)
class RLDSEpisode:
    """One episode of T steps. Nothing is decoded before it is asked for.

    specs: the features by key, "steps/…" of each step and others of the episode. place: its shard and offset.
    All methods raise InputError for an unknown key or a feature of another kind, BadRecord for broken data.
    """

    specs: Mapping[str, FeatureSpec]
    record: Mapping[str, FeatureList] = field(repr=False)
    place: str

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        for spec in self.specs.values():
            if spec.is_of_steps and spec.depth == 1:
                with self._named():
                    return (
                        len(features.numbers(spec, self.record))
                        if spec.kind == "tensor"
                        else self._count(spec)
                    )
        raise BadRecord(f"{self.place} has no steps")

    def numbers(self, key: str) -> np.ndarray | list[np.ndarray]:
        """(T, *shape) of a tensor of the steps, (*shape) of one of the episode; lists where shapes vary."""
        with self._named():
            return features.numbers(self._spec(key, "tensor"), self.record)

    def texts(self, key: str) -> list[str]:
        """One text a step, or one of the episode."""
        with self._named():
            return features.texts(self._spec(key, "text"), self.record)

    def image_files(self, key: str) -> list[memoryview]:
        """The T images as they are stored, JPEG or PNG."""
        with self._named():
            return features.files(self._spec(key, "image"), self.record)

    def images(self, key: str, steps: Sequence[int] | None = None) -> np.ndarray:
        """(T, H, W, C) of a camera, or of some steps alone."""
        spec, stored = self._spec(key, "image"), self.image_files(key)
        chosen = range(len(stored)) if steps is None else steps
        with self._named():
            return np.stack([features.decode_image(spec, stored[step]) for step in chosen])

    def _count(self, spec: FeatureSpec) -> int:
        return len(features.files(spec, self.record))

    def _spec(self, key: str, kind: features.Kind) -> FeatureSpec:
        spec = self.specs.get(key)
        if spec is None or spec.kind != kind:
            matching = ", ".join(name for name, other in self.specs.items() if other.kind == kind) or "none"
            raise InputError(f"{self.place} has no {kind} '{key}'; it has {matching}.")
        return spec

    def _named(self) -> _Named:
        return _Named(self.place)


@dataclass
class _Named:
    """Says where it happened when decoding fails."""

    place: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CheckpointError) and not isinstance(error, BadRecord):
            raise BadRecord(f"{self.place}: {error}; copy the file again.") from error


class RLDSDataset:
    """One split of a TFDS folder: local, or at any fsspec URL (gs://, s3://, https://, hf:// …).

    name: of the dataset. specs: its features by key. broken: one sentence for each shard whose end is unreadable.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        on_bad: OnBad = "raise",
        cache: Path | None = None,
    ) -> None:
        """Indexes the shards the first time; the index is kept in `cache`, the user's cache folder unless given.

        on_bad: whether a shard that breaks off, or holds fewer records than announced, is an error, or what can
        be read of it is taken. Raises CheckpointError, naming the file, or InputError for an unknown split.
        """
        self.storage = Storage(root)
        self.on_bad = on_bad
        info = _json(self.storage, "dataset_info.json")
        self.name = str(info.get("name", Path(self.storage.root).parent.name))
        self.specs = parse_features(self.storage.read("features.json"), f"{self.storage.root}/features.json")
        self.shards = self._shards(split)
        folder = cache or cache_folder("rlds")
        with ThreadPoolExecutor(min(_THREADS, len(self.shards))) as pool:
            self._indices = list(
                pool.map(lambda shard: cached_index(self.storage, shard, folder), self.shards)
            )
        self.broken = tuple(self._complaints(_announced(info, split), self._indices))
        if self.broken and on_bad == "raise":
            raise BadRecord(
                f"{self.broken[0]}; copy it again, or open the dataset with on_bad='skip' to read the rest."
            )
        self._firsts = np.cumsum([0, *map(len, self._indices)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __iter__(self) -> Iterator[RLDSEpisode]:
        """All episodes in order; those that are damaged are left out where `on_bad` says so, see `skipped`."""
        for index in range(len(self)):
            try:
                yield self.episode(index)
            except BadRecord as error:
                if self.on_bad == "raise":
                    raise
                self.skipped.append(str(error))

    @cached_property
    def skipped(self) -> list[str]:
        """Why each episode that iterating has left out could not be read."""
        return []

    def episode(self, index: int) -> RLDSEpisode:
        """Any episode. Raises InputError for a wrong index, BadRecord naming shard and offset for damaged data."""
        if not 0 <= index < len(self):
            raise InputError(f"{self.storage.root} has episodes 0 to {len(self) - 1}, not {index}.")
        shard = int(np.searchsorted(self._firsts, index, side="right")) - 1
        row = index - self._firsts[shard]
        start, end = int(self._indices[shard].offsets[row]), int(self._indices[shard].ends[row])
        place = f"{self.storage.root}/{self.shards[shard]}, offset {start}"
        data = read_record(self.storage, self.shards[shard], start, end)
        with _Named(place):
            return RLDSEpisode(self.specs, parse_example(data), place)

    def _shards(self, split: str) -> list[str]:
        found: dict[str, list[str]] = {}
        for name in self.storage.names():
            if match := _SHARD.search(name):
                found.setdefault(match["split"], []).append(name)
        if split not in found:
            raise InputError(f"{self.storage.root} has the splits {', '.join(found) or 'none'}, not {split}.")
        wanted = int(_SHARD.search(found[split][0])["count"])  # type: ignore[index]
        if len(found[split]) != wanted:
            raise CheckpointError(
                f"{self.storage.root} has {len(found[split])} of the {wanted} files of split {split}; copy the rest."
            )
        return found[split]

    def _complaints(self, announced: Sequence[int] | None, indices: Sequence[ShardIndex]) -> Iterator[str]:
        for number, (shard, index) in enumerate(zip(self.shards, indices, strict=True)):
            expected = announced[number] if announced and len(announced) == len(indices) else len(index)
            place = f"{self.storage.root}/{shard}"
            if index.broken:
                yield f"{place} {index.broken}, after {len(index)} of {max(expected, len(index))} records"
            elif len(index) != expected:
                yield f"{place} has {len(index)} records where {expected} were announced"


def _json(storage: Storage, name: str) -> dict:
    try:
        content = json.loads(storage.read(name))
    except ValueError as error:
        raise CheckpointError(f"{storage.root}/{name} is no JSON ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{storage.root}/{name} is no description of a dataset; copy it again.")
    return content


def _announced(info: Mapping, split: str) -> list[int] | None:
    """How many records each shard of a split should have, where dataset_info.json says so."""
    for entry in info.get("splits", []):
        if entry.get("name") == split and "shardLengths" in entry:
            return [int(length) for length in entry["shardLengths"]]
    return None
