"""An Open X-Embodiment dataset with its spec, as a source of episodes in the form that training knows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from spatialvla.actions.published_units import published_units
from spatialvla.data.episodes import STILL, OnBad, SeenThroughView, filled, moving
from spatialvla.data.hand_motions import Numbers
from spatialvla.data.oxe import calibrations
from spatialvla.data.oxe.cameras import FoundCamera, find_cameras
from spatialvla.data.oxe.copies import Copy, kept_episodes
from spatialvla.data.oxe.named_features import check_features, numbers_of_steps
from spatialvla.data.oxe.names import spec_by_names
from spatialvla.data.oxe.spec import RLDSSpec
from spatialvla.data.oxe.spec_file import NONE, DescribedActions, find_spec
from spatialvla.data.oxe.states import RLDSState
from spatialvla.data.rlds import RLDSDataset, RLDSEpisode
from spatialvla.data.rlds.features import stored_key
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, believed_depth, check_readings

_THREADS = 32  # waiting for the storage, not for the processor


@dataclass(frozen=True)
class OXEView:
    """What one camera saw in an episode's steps, see `spatialvla.data.episodes.EpisodeView`.

    steps: the stored ones that are the episode's.
    """

    found: FoundCamera
    stored: RLDSEpisode = field(repr=False)
    steps: slice

    @cached_property
    def camera(self) -> Camera | None:
        """Of the episode's first step. Raises BadRecord, naming shard and offset, for what is no camera's."""
        placement = self.found.placement
        return self.found.camera if placement is None else placement.camera(self.stored)

    @cached_property
    def extrinsics(self) -> np.ndarray | None:
        """(T, 4, 4) camera -> robot base. Raises BadRecord, naming shard and offset, for what is no rigid motion."""
        if self.found.placement is not None:
            return self.found.placement.poses(self.stored, self.steps)
        pose = self.found.pose
        return None if pose is None else np.broadcast_to(pose, (self.steps.stop - self.steps.start, 4, 4))

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB. Raises BadRecord, naming shard and offset, for a broken file."""
        key = f"steps/{self.found.lines.image}"
        images = self.stored.images(key, [self.steps.start + step for step in steps])
        return np.ascontiguousarray(images[..., ::-1]) if self.found.swapped else images

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 meters, 0 where there is no reading to be believed; None where the spec names no sensor.

        Raises BadRecord, naming shard and offset, for a broken file, and for what no sensor measures.
        """
        if self.found.lines.depth is None:
            return None
        key, wanted = f"steps/{self.found.lines.depth}", [self.steps.start + step for step in steps]
        if self.stored.specs[key].kind == "image":
            raw = self.stored.images(key, wanted)
        else:
            raw = np.asarray(self.stored.numbers(key))[wanted]
        meters = raw.reshape(raw.shape[:3]).astype(np.float32) * np.float32(self.found.lines.depth_meters)
        readings = np.where(np.isfinite(meters) & (meters > 0), meters, np.float32(0))
        try:
            return believed_depth(check_readings(readings), self.found.depth_range)
        except InputError as error:
            raise BadRecord(f"{self.stored.origin}, '{key}': {error}") from None


@dataclass(frozen=True)
class OXEEpisode(SeenThroughView):
    """T steps of one dataset, see `spatialvla.data.episodes.Episode`; none where the dataset leaves it out.

    columns: STILL where the spec drops chunks without motion; none else, for a spec names all that is read.
    view: of the camera that the episode is seen from. beside: the other cameras by name. numbers: of the state.
    """

    instructions: tuple[str, ...]
    actions: np.ndarray
    starts: np.ndarray
    columns: Mapping[str, np.ndarray]
    view: OXEView = field(repr=False)
    beside: Mapping[str, FoundCamera] = field(repr=False)
    numbers: RLDSState | None = field(repr=False)

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def instruction(self) -> str:
        """Of the first step."""
        return self.instructions[0] if self.instructions else ""

    @property
    def first_step(self) -> int:
        """Of the stored episode's."""
        return int(self.view.steps.start)

    @cached_property
    def other_views(self) -> Mapping[str, OXEView]:
        """Of the cameras beside the first that were there; nothing is decoded before it is asked for."""
        stored, steps = self.view.stored, self.view.steps
        return {
            name: OXEView(camera, stored, steps)
            for name, camera in self.beside.items()
            if camera.was_there(stored)
        }

    @cached_property
    def state(self) -> np.ndarray | None:
        """(T, S) float64. Raises BadRecord, naming shard and offset, for numbers that are not finite."""
        if self.numbers is None:
            return None
        stored, steps = self.view.stored, self.view.steps
        read = {key: np.asarray(stored.numbers(f"steps/{key}"))[steps] for key in self.numbers.features}
        try:
            return self.numbers.values(read)
        except InputError as error:
            raise BadRecord(f"{stored.origin}: {error}") from None

    def instruction_at(self, step: int) -> str:
        """Of one step."""
        return self.instructions[step]


class OXESource:
    """One split of an Open X-Embodiment dataset as TFDS stores it, local or at any fsspec URL.

    key: the name of its statistics in published checkpoints. control_hz: steps a second. units: of the actions.
    state_names: of the numbers of the state. left_out: one sentence for each shard of which only a part can be read.
    cameras: those that its files have.
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
        self.left_out = self.dataset.broken
        calibration = calibrations.load_calibration(self.spec)
        stored, features = self.dataset.storage.root, self.dataset.specs
        try:
            check_features(self.spec, features)
            self.cameras = find_cameras(self.spec, features, calibration, copy, stored)
            self._state, self._stateless = _found_state(self.spec, numbers_of_steps(features))
        except InputError as error:
            raise InputError(f"{stored} {str(error).removeprefix(f'{stored} ')}") from None
        self.state_names = () if self._state is None else self._state.names
        self._keep_if = kept_episodes(self.spec, features, copy, stored)

    def __reduce__(self) -> tuple[object, ...]:
        return OXESource, self._arguments

    @cached_property
    def fingerprint(self) -> str:
        """Of the shards' sizes and times, of the spec, and of the colors' order."""
        return self._digest(self.dataset.storage.fingerprint, whole=True)

    @cached_property
    def contents(self) -> str:
        """Of the shards' sizes, of what the spec says of the first camera and the actions, and of the colors' order."""
        storage = self.dataset.storage
        return self._digest(lambda shard: f"{shard} {storage.size(shard)}", whole=False)

    def _digest(self, stamp: Callable[[str], str], whole: bool) -> str:
        shards = self.dataset.shards
        with ThreadPoolExecutor(min(_THREADS, len(shards))) as pool:
            stamps = list(pool.map(stamp, shards))
        parts = [*stamps, *self.spec.described(whole), f"swapped {self.cameras.all[0].swapped}"]
        parts += calibrations.stamps(self.spec, timed=whole)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Files of another version than the spec is of, and cameras or a state that they lack."""
        stored, said = self.dataset.version, []
        if stored not in (None, self.spec.version) and not isinstance(self.spec.action, DescribedActions):
            said.append(
                f"The files are of version {stored}, and the spec of {self.spec.name} is of {self.spec.version}."
            )
        said += [f"{self.dataset.storage.root} {why}" for why in (*self.cameras.missing, *self._stateless)]
        return tuple(said)

    def prepare(self, workers: int) -> None:
        """Indexes the steps, where that was not done before, so that a sample reads its own images alone."""
        self.dataset.index_steps(workers)

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
        first = spec.skip + spec.first_action
        seen_from, beside = self.cameras.in_turn[index % len(self.cameras.in_turn)]
        return OXEEpisode(
            instructions=instructions,
            actions=actions,
            starts=np.flatnonzero(moves) if spec.drop_no_ops else np.arange(len(actions)),
            columns={STILL: ~moves} if spec.drop_still_chunks else {},
            view=OXEView(seen_from, stored, slice(first, first + len(actions))),
            beside=beside,
            numbers=self._state,
        )


def _found_state(spec: RLDSSpec, known: Mapping[str, Numbers]) -> tuple[RLDSState | None, tuple[str, ...]]:
    """The state that files have, and why they have none. Raises InputError where a user's file names it."""
    state = spec.state
    if state is None:
        return None, ()
    try:
        return state.checked(known), ()
    except InputError as error:
        if "state" in spec.lines:
            raise
        return None, (f"{str(error).rstrip('.')}; the state is missing.",)


def _instructions(stored: RLDSEpisode, spec: RLDSSpec) -> tuple[str, ...]:
    """One a step; language_table stores code points in place of text."""
    if spec.fixed_instruction is not None or spec.instruction == NONE:
        return filled([spec.fixed_instruction or ""] * len(stored))
    key = stored_key(spec.instruction, stored.specs)
    if stored.specs[key].kind == "tensor":
        return filled(["".join(map(chr, points[points > 0])) for points in np.asarray(stored.numbers(key))])
    texts = stored.texts(key)
    return filled(texts if stored.specs[key].is_of_steps else texts * len(stored))
