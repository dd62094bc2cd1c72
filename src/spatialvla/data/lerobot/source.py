"""A LeRobot dataset as a source of episodes in the form that training knows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from spatialvla.data.episodes import EpisodeView, filled, moving
from spatialvla.data.hand_motions import Numbers
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.extrinsics import check_extrinsics_feature, extrinsics_of
from spatialvla.data.lerobot.feature_mapping import INTRINSICS, FeatureMapping
from spatialvla.data.lerobot.features import BOOKKEEPING, Feature, meters_of_unit
from spatialvla.data.lerobot.location import find_dataset
from spatialvla.data.lerobot.reader import LeRobotDataset, StoredEpisode
from spatialvla.data.lerobot.units import stored_units
from spatialvla.data.mapping_lines import Intrinsics
from spatialvla.data.motion_units import motion_units
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera, check_intrinsics, check_readings


@dataclass(frozen=True)
class LeRobotEpisode:
    """T steps of one dataset, see `spatialvla.data.episodes.Episode`.

    calibrated_size: (height, width) of the pictures that stored intrinsics are for; None where there are none.
    """

    instructions: tuple[str, ...]
    actions: np.ndarray
    starts: np.ndarray
    camera: Camera | None
    extrinsics: np.ndarray | None
    stored: StoredEpisode = field(repr=False)
    image_key: str
    depth_key: str | None
    first_step: int
    calibrated_size: tuple[int, int] | None
    other_views: Mapping[str, EpisodeView] = field(default_factory=dict)
    state: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def instruction(self) -> str:
        """Of the first step."""
        return self.instructions[0] if self.instructions else ""

    def instruction_at(self, step: int) -> str:
        """Of one step."""
        return self.instructions[step]

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """(T, …) the numbers of each step by feature name."""
        rows = slice(self.first_step, self.first_step + len(self.actions))
        return {name: values[rows] for name, values in self.stored.columns.items()}

    def images(self, steps: Sequence[int]) -> np.ndarray:
        """(n, H, W, 3) uint8 RGB.

        Raises CheckpointError, naming the file, where it is broken, and for pictures of another size than
        info.json says where the stored intrinsics are of that size.
        """
        found = self.stored.frames(self.image_key, [self.first_step + step for step in steps])
        if self.calibrated_size not in (None, found.shape[1:3]):
            raise CheckpointError(
                f"'{self.image_key}' has pictures of {found.shape[1]}x{found.shape[2]} where info.json says "
                f"{'x'.join(map(str, self.calibrated_size or ()))}, so it is unknown for which the intrinsics are; "
                "correct info.json, or give the mapping's line 'intrinsics: …'."
            )
        return found

    def depth(self, steps: Sequence[int]) -> np.ndarray | None:
        """(n, H, W) float32 meters, 0 where there is no reading; None where there was no sensor.

        Raises CheckpointError for what no sensor measures.
        """
        if self.depth_key is None:
            return None
        readings = self.stored.frames(self.depth_key, [self.first_step + step for step in steps])
        try:
            return check_readings(readings)
        except InputError as error:
            raise CheckpointError(f"Episode {self.stored.index}, '{self.depth_key}': {error}") from None


class LeRobotSource:
    """A dataset of format v2 or v3: its folder, its name in LeRobot's cache, or a Hub id.

    Without a mapping: the only camera, `action` of 7 numbers as they are, and `observation.intrinsics` where
    there is one.
    key: the name of its statistics in a checkpoint. units: of the actions. image, depth: the features looked
    through.
    """

    def __init__(
        self,
        root: str | Path,
        mapping: FeatureMapping | str | Path | None = None,
        cache: Path | None = None,
    ) -> None:
        """mapping: one, or its YAML file. cache: folder for what is downloaded from the Hub.

        Raises InputError where the dataset leaves something open, naming the line of a mapping that helps.
        """
        self.root = find_dataset(root, cache)
        self.dataset = LeRobotDataset(self.root)
        given = (
            mapping
            if isinstance(mapping, FeatureMapping) or mapping is None
            else FeatureMapping.load(mapping)
        )
        self.mapping = given or FeatureMapping()
        self.key = self.mapping.key or (
            self.root.resolve().name if Path(root).expanduser().is_dir() else str(root)
        )
        self.state_names: tuple[str, ...] = ()
        try:
            self.image = self._image()
            self.depth = self._depth()
            self._check_intrinsics()
            check_extrinsics_feature(self.mapping.extrinsics, self.dataset.features)
            self.mapping.motion.check(_numbers(self.dataset.features))
            stored = stored_units(self.root)
            self.units = motion_units(
                self.mapping.motion, self.mapping.units, stored, float(self.dataset.fps)
            )
        except InputError as error:
            raise InputError(" ".join((f"{self.root}: {error}", *self.doubts))) from None

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self.root, self.mapping, self.key)

    @property
    def left_out(self) -> tuple[str, ...]:
        """None: each episode that is listed is one."""
        return ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """Features that are listed and not there."""
        if not self.dataset.absent:
            return ()
        return (f"Its info.json lists {', '.join(self.dataset.absent)}, which the files do not hold.",)

    @property
    def control_hz(self) -> float:
        """Steps a second."""
        return float(self.dataset.fps)

    @cached_property
    def fingerprint(self) -> str:
        """Of all files' sizes and times, and of the mapping."""
        return self._digest(lambda path: f"{path.stat().st_size} {path.stat().st_mtime_ns}")

    @cached_property
    def contents(self) -> str:
        """Of all files' sizes, what `meta` holds, and the mapping."""
        meta = self.root / "meta"
        return self._digest(
            lambda path: (
                hashlib.sha256(path.read_bytes()).hexdigest()
                if path.is_relative_to(meta)
                else f"{path.stat().st_size}"
            )
        )

    def _digest(self, stamp: Callable[[Path], str]) -> str:
        parts = [repr(self.mapping)]
        for folder in ("meta", "data", "videos"):
            for path in sorted(_files(self.root / folder)):
                parts.append(f"{path.relative_to(self.root)} {stamp(path)}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def __len__(self) -> int:
        return len(self.dataset)

    def episode(self, index: int) -> LeRobotEpisode:
        """Any episode.

        Raises InputError for a wrong index, CheckpointError, naming the file, for damaged data.
        """
        episode = self.dataset.episode(index)
        actions = self.mapping.motion.actions(episode.columns)
        if not np.isfinite(actions).all():
            raise CheckpointError(
                f"{self.root}, episode {index} has actions that are not finite; leave it out."
            )
        kept = moving(actions) if self.mapping.drop_no_ops else np.ones(len(actions), dtype=bool)
        first, fixed = self.mapping.motion.first_step, self.mapping.instruction
        instructions = filled(episode.instructions if fixed is None else [fixed] * len(episode))
        camera, given = self._camera(episode), self.mapping.intrinsics
        return LeRobotEpisode(
            instructions=instructions[first:],
            actions=actions,
            starts=np.flatnonzero(kept),
            camera=camera,
            extrinsics=self._extrinsics(episode, slice(first, first + len(actions))),
            stored=episode,
            image_key=self.image,
            depth_key=self.depth,
            first_step=first,
            calibrated_size=None
            if camera is None or isinstance(given, Intrinsics)
            else (camera.height, camera.width),
        )

    def _image(self) -> str:
        cameras = [name for name, feature in self.dataset.features.items() if feature.is_rgb]
        wanted = self.mapping.image or (cameras[0] if len(cameras) == 1 else None)
        if wanted not in cameras:
            raise InputError(
                f"there are {'the cameras ' + ', '.join(cameras) if cameras else 'no cameras'}"
                f"{f', not {wanted}' if wanted else ''}; choose one with --camera or the mapping's line 'image: …'."
            )
        return str(wanted)

    def _depth(self) -> str | None:
        sensors = {name: feature for name, feature in self.dataset.features.items() if feature.is_depth}
        if self.mapping.depth is not None and self.mapping.depth not in sensors:
            raise InputError(
                f"there is no depth '{self.mapping.depth}' but {', '.join(sensors) or 'none'}; correct the "
                "mapping's line 'depth: …', or info.json where it does not say how a video's depth is stored."
            )
        names = (self.mapping.depth, self.image.replace("images", "depth"), f"{self.image}_depth")
        found = next((name for name in names if name in sensors), None)
        if found is not None:
            _check_depth(sensors[found])
        return found

    def _check_intrinsics(self) -> None:
        name = self.mapping.intrinsics
        if not isinstance(name, str) or name == "none":
            return
        feature = self.dataset.features.get(name)
        if feature is None or int(np.prod(feature.shape)) != 9:
            raise InputError(
                f"there is no feature '{name}' of 3x3 numbers; give the mapping's line 'intrinsics: …' "
                "another one, K with height and width, or none."
            )

    def _camera(self, episode: StoredEpisode) -> Camera | None:
        """Of the episode's first frame: cameras are taken to stay as they are."""
        chosen = self.mapping.intrinsics
        if isinstance(chosen, Intrinsics):
            return chosen.camera
        name = INTRINSICS if chosen is None else chosen
        stored = episode.columns.get(name)
        if stored is None or not len(stored) or not stored[0].any():
            return None
        height, width = self.dataset.features[self.image].shape[:2]
        try:
            return Camera(check_intrinsics(stored[0].reshape(3, 3)), height, width)
        except InputError as error:
            raise CheckpointError(
                f"{self.root}, episode {episode.index}, '{name}': {error} A mapping's line 'intrinsics: …' says others,"
                " or none."
            ) from None

    def _extrinsics(self, episode: StoredEpisode, steps: slice) -> np.ndarray | None:
        columns = {name: values[steps] for name, values in episode.columns.items()}
        try:
            return extrinsics_of(self.mapping.extrinsics, columns, steps.stop - steps.start)
        except InputError as error:
            raise CheckpointError(
                f"{self.root}, episode {episode.index}: {error} A mapping's line 'extrinsics: …' says others, or none."
            ) from None


def _check_depth(feature: Feature) -> None:
    """Raises InputError where it is not said how its numbers become meters."""
    try:
        meters_of_unit(feature.info)
        if feature.is_video:
            DepthQuantization.from_info(feature.info)
    except InputError as error:
        raise InputError(f"'{feature.name}': {error}") from None


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, behind links too."""
    for place, _, names in os.walk(folder, followlinks=True):
        paths = (Path(place) / name for name in names)
        yield from (path for path in paths if path.is_file())


def _reopened(root: Path, mapping: FeatureMapping, key: str) -> LeRobotSource:
    source = LeRobotSource(root, mapping)
    source.key = key
    return source


def _numbers(features: Mapping[str, Feature]) -> dict[str, Numbers]:
    """The features that a mapping's action may name."""
    bookkeeping = {feature.name for feature in BOOKKEEPING}
    return {
        name: Numbers(int(np.prod(feature.shape)), tuple(map(str, feature.names or ())))
        for name, feature in features.items()
        if feature.is_number and name not in bookkeeping
    }
