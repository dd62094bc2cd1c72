"""An Open X-Embodiment dataset with its spec, as a source of episodes in the form that training knows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from spatialvla.actions.published_units import published_units
from spatialvla.data.episodes import STILL, EpisodeView, OnBad, filled, moving
from spatialvla.data.oxe.copies import Copy, kept_episodes, swaps_red_and_blue
from spatialvla.data.oxe.named_features import check_features
from spatialvla.data.oxe.names import spec_by_names
from spatialvla.data.oxe.spec_file import NONE, DescribedActions, find_spec
from spatialvla.data.oxe.specs import RLDSSpec
from spatialvla.data.rlds import RLDSDataset, RLDSEpisode
from spatialvla.data.rlds.features import stored_key
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, check_intrinsics, check_readings

_THREADS = 32  # waiting for the storage, not for the processor


@dataclass(frozen=True)
class OXEEpisode:
    """T steps of one dataset, see `spatialvla.data.episodes.Episode`; none where the dataset leaves it out.

    columns: STILL where the spec drops chunks without motion; none else, for a spec names all that is read.
    first_step: of the stored episode's. swapped: whether red and blue have each other's place in the files.
    depth_key: of the sensor's images, in which 1 is `depth_meters`; None where there is none.
    """

    instructions: tuple[str, ...]
    actions: np.ndarray
    starts: np.ndarray
    camera: Camera | None
    columns: Mapping[str, np.ndarray]
    stored: RLDSEpisode = field(repr=False)
    image_key: str
    first_step: int
    swapped: bool
    depth_key: str | None = None
    depth_meters: float = 1.0
    other_views: Mapping[str, EpisodeView] = field(default_factory=dict)
    state: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def instruction(self) -> str:
        """Of the first step."""
        return self.instructions[0] if self.instructions else ""

    @property
    def extrinsics(self) -> None:
        """None: the specs name none yet."""
        return None

    def instruction_at(self, step: int) -> str:
        """Of one step."""
        return self.instructions[step]

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB. Raises BadRecord, naming shard and offset, for a broken file."""
        images = self.stored.images(self.image_key, [self.first_step + step for step in steps])
        return np.ascontiguousarray(images[..., ::-1]) if self.swapped else images

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 meters, 0 where there is no reading; None where the spec names no sensor.

        Raises BadRecord, naming shard and offset, for a broken file, and for what no sensor measures.
        """
        if self.depth_key is None:
            return None
        wanted = [self.first_step + step for step in steps]
        if self.stored.specs[self.depth_key].kind == "image":
            raw = self.stored.images(self.depth_key, wanted)
        else:
            raw = np.asarray(self.stored.numbers(self.depth_key))[wanted]
        meters = raw.reshape(raw.shape[:3]).astype(np.float32) * np.float32(self.depth_meters)
        readings = np.where(np.isfinite(meters) & (meters > 0), meters, np.float32(0))
        try:
            return check_readings(readings)
        except InputError as error:
            raise BadRecord(f"{self.stored.origin}, '{self.depth_key}': {error}") from None


class OXESource:
    """One split of an Open X-Embodiment dataset as TFDS stores it, local or at any fsspec URL.

    key: the name of its statistics in published checkpoints. control_hz: steps a second. units: of the actions.
    left_out: one sentence for each shard of which only a part can be read. swapped: whether red and blue are in the
    files' pictures.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        spec: RLDSSpec | str | None = None,
        split: str = "train",
        on_bad: OnBad = "raise",
        cache: Path | None = None,
        copy: Copy = "auto",
    ) -> None:
        """spec: one, its name, or its YAML file; unless given, found by the name in the dataset's files, or by its
        folder's. cache: folder of the index of records. copy: whether the files have the faults that the spec tells of.

        Raises InputError where there is no spec, the dataset lacks what it names, or it cannot be told which copy
        it is; see `RLDSDataset`, too.
        """
        self.dataset = RLDSDataset(root, split, on_bad, cache)
        if spec is None:
            folder = PurePosixPath(self.dataset.storage.root)
            self.spec = spec_by_names((self.dataset.name, folder.parent.name, folder.name))
        else:
            self.spec = find_spec(spec) if isinstance(spec, str) else spec
        self._arguments = (root, self.spec, split, on_bad, cache, copy)
        self.key, self.control_hz = self.spec.key, float(self.spec.control_hz)
        units = self.spec.units or published_units(self.spec.name)
        self.units = replace(units, control_hz=self.control_hz)
        self.state_names: tuple[str, ...] = ()
        self.left_out = self.dataset.broken
        try:
            check_features(self.spec, self.dataset.specs)
        except InputError as error:
            raise InputError(f"{self.dataset.storage.root} {error}") from None
        self.swapped = swaps_red_and_blue(self.spec, self.dataset.specs, copy, self.dataset.storage.root)
        self._keep_if = kept_episodes(self.spec, self.dataset.specs, copy, self.dataset.storage.root)

    def __reduce__(self) -> tuple[object, ...]:
        return OXESource, self._arguments

    @cached_property
    def fingerprint(self) -> str:
        """Of the shards' sizes and times, of the spec, and of the colors' order."""
        return self._digest(self.dataset.storage.fingerprint)

    @cached_property
    def contents(self) -> str:
        """Of the shards' sizes, of the spec, and of the colors' order."""
        storage = self.dataset.storage
        return self._digest(lambda shard: f"{shard} {storage.size(shard)}")

    def _digest(self, stamp: Callable[[str], str]) -> str:
        shards = self.dataset.shards
        with ThreadPoolExecutor(min(_THREADS, len(shards))) as pool:
            stamps = list(pool.map(stamp, shards))
        parts = [*stamps, *(_described(self.spec, entry.name) for entry in fields(self.spec))]
        return hashlib.sha256("\n".join([*parts, f"swapped {self.swapped}"]).encode()).hexdigest()[:24]

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Files of another version than the spec is of."""
        stored = self.dataset.version
        if stored in (None, self.spec.version) or isinstance(self.spec.action, DescribedActions):
            return ()
        return (
            f"The files are of version {stored}, and the spec of {self.spec.name} is of {self.spec.version}.",
        )

    def episode(self, index: int) -> OXEEpisode:
        """Any episode: instruction and actions are read at once, images stay encoded. One that is to be left out
        has no steps.

        Raises InputError for a wrong index, BadRecord, naming shard and offset, for damaged data and for
        actions that are not finite.
        """
        stored, spec = self.dataset.episode(index), self.spec
        if self._keep_if is not None and not np.any(stored.numbers(self._keep_if)):
            return self._episode(index, stored, (), np.zeros((0, 7)))
        inputs = [np.asarray(stored.numbers(f"steps/{key}"))[spec.skip :] for key in spec.inputs]
        try:
            actions = spec.action(*inputs)
        except InputError as error:
            raise BadRecord(f"{stored.origin}: {error}") from None
        if not np.isfinite(actions).all():
            raise BadRecord(f"{stored.origin} has actions that are not finite; leave the episode out.")
        first = spec.skip + spec.first_action
        return self._episode(index, stored, _instructions(stored, spec)[first:], actions)

    def _episode(
        self, index: int, stored: RLDSEpisode, instructions: tuple[str, ...], actions: np.ndarray
    ) -> OXEEpisode:
        spec, moves = self.spec, moving(actions)
        is_other = spec.other_image is not None and index % 2 == 1
        return OXEEpisode(
            instructions=instructions,
            actions=actions,
            starts=np.flatnonzero(moves) if spec.drop_no_ops else np.arange(len(actions)),
            camera=None if is_other else self._camera(stored),
            columns={STILL: ~moves} if spec.drop_still_chunks else {},
            stored=stored,
            image_key=f"steps/{spec.other_image if is_other else spec.image}",
            first_step=spec.skip + spec.first_action,
            swapped=self.swapped,
            depth_key=None if spec.depth is None or is_other else f"steps/{spec.depth}",
            depth_meters=spec.depth_meters,
        )

    def _camera(self, stored: RLDSEpisode) -> Camera | None:
        """Of the episode's first step: cameras are taken to stay as they are."""
        if self.spec.intrinsics is None:
            return self.spec.camera
        key = stored_key(self.spec.intrinsics, stored.specs)
        first = np.asarray(stored.numbers(key)).reshape(-1, 9)[:1]
        if not first.any():
            return None
        height, width, _ = stored.specs[f"steps/{self.spec.image}"].shape
        try:
            return Camera(check_intrinsics(first.reshape(3, 3)), int(height or 0), int(width or 0))
        except InputError as error:
            raise BadRecord(f"{stored.origin}, '{key}': {error}") from None


def _instructions(stored: RLDSEpisode, spec: RLDSSpec) -> tuple[str, ...]:
    """One a step; language_table stores code points in place of text."""
    if spec.fixed_instruction is not None or spec.instruction == NONE:
        return filled([spec.fixed_instruction or ""] * len(stored))
    key = stored_key(spec.instruction, stored.specs)
    if stored.specs[key].kind == "tensor":
        return filled(["".join(map(chr, points[points > 0])) for points in np.asarray(stored.numbers(key))])
    texts = stored.texts(key)
    return filled(texts if stored.specs[key].is_of_steps else texts * len(stored))


def _described(spec: RLDSSpec, name: str) -> str:
    """A field as text that is the same in every process: functions by name, cameras by their numbers."""
    value = getattr(spec, name)
    if isinstance(value, Camera):
        value = value.to_json()
    return f"{name} {getattr(value, '__qualname__', value)}"
