"""A LeRobot dataset as a source of episodes in the form that training knows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from spatialvla.data.lerobot.cameras import find_cameras, through_any_camera
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.form import EpisodeForm, LeRobotEpisode
from spatialvla.data.lerobot.location import find_dataset
from spatialvla.data.lerobot.metadata import read_info
from spatialvla.data.lerobot.reader import VERSIONS, LeRobotDataset
from spatialvla.data.lerobot.units import stored_units
from spatialvla.data.lerobot.views import CameraFeatures
from spatialvla.data.motion_units import motion_units
from spatialvla.errors import InputError


class LeRobotSource:
    """A dataset of format v2 or v3: its folder, its name in LeRobot's cache, or a Hub id.

    Without a mapping: the only camera, `action` of 7 numbers as they are, `observation.state`, and intrinsics and
    extrinsics where features of the usual names hold them.
    key: the name of its statistics in a checkpoint. units: of the actions.
    """

    def __init__(
        self,
        root: str | Path,
        mapping: FeatureMapping | str | Path | None = None,
        cache: Path | None = None,
        cameras: Collection[str] | None = None,
        pictures: bool = True,
    ) -> None:
        """mapping: one, or its YAML file. cache: folder for what is downloaded from the Hub. cameras: names of
        those beside the first that are wanted; all unless given. Files of the others need not be there. pictures:
        whether any are looked at; else no video needs to be there, and any camera may be the first.

        Raises InputError where the dataset leaves something open, naming the line of a mapping that helps.
        """
        given = (
            mapping
            if isinstance(mapping, FeatureMapping) or mapping is None
            else FeatureMapping.load(mapping)
        )
        self.mapping = given or FeatureMapping()
        self.cameras, self.pictures = cameras, pictures
        self.root = find_dataset(root, cache, self._unneeded)
        self.dataset = LeRobotDataset(self.root, complete=False)
        if not pictures:
            self.mapping = through_any_camera(self.mapping, self.dataset.features)
        self.key = self.mapping.key or (
            self.root.resolve().name if Path(root).expanduser().is_dir() else str(root)
        )
        self._doubts: tuple[str, ...] = ()
        try:
            self.form = EpisodeForm.of(self.mapping, self.dataset.features, cameras)
            cameras_read = (self.camera, *self.others.values()) if pictures else ()
            self._doubts = (*self.form.left_out, *(camera.doubt for camera in cameras_read if camera.doubt))
            stored = stored_units(self.root)
            self.units = motion_units(
                self.mapping.motion, self.mapping.units, stored, float(self.dataset.fps)
            )
        except InputError as error:
            raise InputError(" ".join((f"{self.root}: {error}", *self.doubts))) from None
        self.dataset.check_videos(name for camera in cameras_read for name in camera.videos)

    @property
    def camera(self) -> CameraFeatures:
        """The one looked through."""
        return self.form.camera

    @property
    def others(self) -> Mapping[str, CameraFeatures]:
        """Further cameras by name."""
        return self.form.others

    @property
    def state_names(self) -> tuple[str, ...]:
        """What the numbers of the state are."""
        return self.form.state_names

    def _unneeded(self, folder: Path) -> list[str]:
        """The features whose videos nobody wants, by the description in a folder. Raises InputError as `__init__`."""
        if self.pictures and self.cameras is None:
            return []
        features = read_info(folder, VERSIONS).features
        found = find_cameras(self.mapping, features, self.cameras)[0] if self.pictures else []
        needed = {name for camera in found for name in camera.videos}
        return [name for name, feature in features.items() if feature.is_video and name not in needed]

    def __reduce__(self) -> tuple[object, ...]:
        return _reopened, (self.root, self.mapping, self.key, self.cameras, self.pictures)

    @property
    def left_out(self) -> tuple[str, ...]:
        """None: each episode that is listed is one."""
        return ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """Features that are listed and not there, cameras that cannot be read and that nobody named, and odd Ks."""
        absent = ", ".join(self.dataset.absent)
        missing = [f"Its info.json lists {absent}, which the files do not hold."] if absent else []
        return (*missing, *self._doubts)

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
        parts = [repr(self.mapping), *self._described]
        for folder in ("meta", "data", "videos"):
            for path in sorted(_files(self.root / folder)):
                parts.append(f"{path.relative_to(self.root)} {stamp(path)}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    @property
    def _described(self) -> list[str]:
        """What is read beside what a mapping's own text tells; nothing where there is nothing."""
        calibrated = self.mapping.calibration is not None
        with np.printoptions(floatmode="unique"):
            cameras = [repr(camera) for camera in (self.camera, *self.others.values()) if calibrated]
        further = [repr(self.mapping.cameras)] if self.mapping.cameras is not None else []
        state = [repr(self.mapping.state)] if self.mapping.state is not None else []
        return [*cameras, *further, *state]

    def __len__(self) -> int:
        return len(self.dataset)

    def prepare(self, workers: int) -> None:
        """Nothing: steps are read by themselves as it is."""

    def episode(self, index: int) -> LeRobotEpisode:
        """Any episode.

        Raises InputError for a wrong index, CheckpointError, naming the file, for damaged data.
        """
        return self.form.episode(self.dataset.episode(index), f"{self.root}, episode {index}")


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, behind links too."""
    for place, _, names in os.walk(folder, followlinks=True):
        paths = (Path(place) / name for name in names)
        yield from (path for path in paths if path.is_file())


def _reopened(
    root: Path, mapping: FeatureMapping, key: str, cameras: Collection[str] | None, pictures: bool
) -> LeRobotSource:
    source = LeRobotSource(root, mapping, cameras=cameras, pictures=pictures)
    source.key = key
    return source
