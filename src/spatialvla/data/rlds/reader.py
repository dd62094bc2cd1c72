"""Read an RLDS dataset as TFDS stores it, an episode a record, in any order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from spatialvla.common.cache_folder import cache_folder
from spatialvla.data.episodes import OnBad
from spatialvla.data.rlds import features
from spatialvla.data.rlds.episode_index import Split, make_index, open_index
from spatialvla.data.rlds.example import parse_example
from spatialvla.data.rlds.features import FeatureSpec, parse_features, parse_info
from spatialvla.data.rlds.records import Place, Record, WholeRecord
from spatialvla.data.rlds.storage import Storage
from spatialvla.data.rlds.tfrecord import BadRecord, RecordBounds, cached_index, read_record
from spatialvla.errors import CheckpointError, InputError

_SHARD = re.compile(r"-(?P<split>[^-]+)\.tfrecord-(?P<number>\d+)-of-(?P<count>\d+)$")
_THREADS = 32  # indexing waits for the storage, not for the processor


@dataclass(frozen=True)
class RLDSEpisode:
    """One episode of T steps. Nothing is decoded before it is asked for.

    specs: the features by key, "steps/…" of each step and others of the episode. origin: its shard and
    offset. All methods raise InputError for an unknown key or kind, BadRecord for broken data.
    """

    specs: Mapping[str, FeatureSpec]
    record: Record = field(repr=False)
    origin: str

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        for spec in self.specs.values():
            if spec.is_of_steps and spec.depth == 1:
                with _naming(self.origin):
                    if spec.kind == "tensor":
                        return len(features.numbers(spec, self.record))
                    return features.count(spec, self.record)
        raise BadRecord(f"{self.origin} has no steps; leave the episode out.")

    def numbers(self, key: str) -> np.ndarray | list[np.ndarray]:
        """(T, *shape) of a tensor of the steps, (*shape) of one of the episode; lists where shapes vary."""
        with _naming(self.origin):
            return features.numbers(self._spec(key, "tensor"), self.record)

    def texts(self, key: str) -> list[str]:
        """One text a step, or one of the episode."""
        with _naming(self.origin):
            return features.texts(self._spec(key, "text"), self.record)

    def image_files(self, key: str) -> list[memoryview]:
        """The T images as they are stored, JPEG or PNG."""
        with _naming(self.origin):
            return features.files(self._spec(key, "image"), self.record)

    def images(self, key: str, steps: Sequence[int] | None = None) -> np.ndarray:
        """(T, H, W, C) of a camera, or of some steps alone."""
        spec = self._spec(key, "image")
        with _naming(self.origin):
            files = features.files(spec, self.record, steps)
            pictures = [features.decode_image(spec, file) for file in files]
            if len(sizes := {picture.shape for picture in pictures}) > 1:
                raise CheckpointError(f"'{key}' holds images of several sizes, {sorted(sizes)}")
            return np.stack(pictures)

    def _spec(self, key: str, kind: features.Kind) -> FeatureSpec:
        spec = self.specs.get(key)
        if spec is None or spec.kind != kind:
            matching = ", ".join(name for name, other in self.specs.items() if other.kind == kind) or "none"
            raise InputError(f"{self.origin} has no {kind} '{key}'; it has {matching}.")
        return spec


@contextmanager
def _naming(origin: str) -> Iterator[None]:
    """Says where it happened when decoding fails."""
    try:
        yield
    except BadRecord:
        raise
    except CheckpointError as error:
        raise BadRecord(f"{origin}: {error}; copy the file again.") from error


class RLDSDataset:
    """One split of a TFDS folder: local, or at any fsspec URL (gs://, s3://, https://, hf:// …).

    name, version: of the dataset. specs: its features by key. broken: one sentence for each
    shard whose end is unreadable.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "train",
        on_bad: OnBad = "raise",
        cache: Path | None = None,
    ) -> None:
        """Indexes the shards the first time; the index is kept in `cache`, or the user's cache folder.

        on_bad: whether a shard that breaks off, or holds fewer records than announced, is an error, or what
        can be read of it is taken.
        Raises CheckpointError, naming the file, or InputError for an unknown split.
        """
        self.storage = Storage(root)
        self.on_bad = on_bad
        info = parse_info(self.storage.read("dataset_info.json"), f"{self.storage.root}/dataset_info.json")
        self.name = info.name or Path(self.storage.root).parent.name
        self.version = info.version
        self.specs = parse_features(self.storage.read("features.json"), f"{self.storage.root}/features.json")
        self.shards = self._shards(split)
        folder = cache or cache_folder("rlds")
        images = tuple(key for key, spec in self.specs.items() if spec.kind == "image")
        self._split = Split(self.storage, tuple(self.shards), images, folder)
        self._steps = open_index(self._split)
        self._records = self._found_records() if self._steps is None else self._steps.records
        self.broken = tuple(self._complaints(info.lengths.get(split), self._records))
        if self.broken and on_bad == "raise":
            raise BadRecord(
                f"{self.broken[0]}; copy it again, or open the dataset with on_bad='skip' to read the rest."
            )
        self._firsts = np.cumsum([0, *self._records.counts])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __iter__(self) -> Iterator[RLDSEpisode]:
        """All episodes in order; where `on_bad` says so, damaged ones are left out, see `skipped`."""
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
        """Any episode.

        Raises InputError for a wrong index, BadRecord naming shard and offset for damaged data.
        """
        if not 0 <= index < len(self):
            raise InputError(f"{self.storage.root} has episodes 0 to {len(self) - 1}, not {index}.")
        shard = int(np.searchsorted(self._firsts, index, side="right")) - 1
        start, end = self._records.bounds[index].tolist()
        place = Place(self.storage, self.shards[shard], start, end)
        if self._steps is not None and (indexed := self._steps.record(index, place)) is not None:
            return RLDSEpisode(self.specs, indexed, place.origin)
        data = read_record(self.storage, self.shards[shard], start, end)
        with _naming(place.origin):
            return RLDSEpisode(self.specs, WholeRecord(parse_example(data)), place.origin)

    def index_steps(self, workers: int = 1) -> None:
        """Reads and checks all records once, so that from then on any image is read by itself.

        Where its files have not changed that was done before, by whichever process. workers: processes.
        """
        if self._steps is None:
            self._steps = make_index(self._split, workers)

    def _shards(self, split: str) -> list[str]:
        found: dict[str, list[str]] = {}
        counts: dict[str, int] = {}
        for name in self.storage.names():
            if match := _SHARD.search(name):
                found.setdefault(match["split"], []).append(name)
                counts.setdefault(match["split"], int(match["count"]))
        if split not in found:
            raise InputError(f"{self.storage.root} has the splits {', '.join(found) or 'none'}, not {split}.")
        wanted = counts[split]
        if len(found[split]) != wanted:
            raise CheckpointError(
                f"{self.storage.root} has {len(found[split])} of the {wanted} files of split "
                f"{split}; copy the rest."
            )
        return found[split]

    def _found_records(self) -> RecordBounds:
        with ThreadPoolExecutor(min(_THREADS, len(self.shards))) as pool:
            return RecordBounds.joined(
                list(pool.map(lambda name: cached_index(self.storage, name, self._split.cache), self.shards))
            )

    def _complaints(self, announced: Sequence[int] | None, records: RecordBounds) -> Iterator[str]:
        wanted = announced if announced and len(announced) == len(self.shards) else records.counts
        for shard, count, expected, why in zip(
            self.shards, records.counts, wanted, records.broken, strict=True
        ):
            name = f"{self.storage.root}/{shard}"
            if why:
                yield f"{name} {why}, after {count} of {max(expected, count)} records"
            elif count != expected:
                yield f"{name} has {count} records where {expected} were announced"
