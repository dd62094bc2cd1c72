"""The calibration file of a robot: its cameras by name, in YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from spatialvla.common.entries import from_entries, load_entries
from spatialvla.common.files import replacing
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera

_Rows = tuple[tuple[float, ...], ...]
_EXPLANATION = """\
# K in pixels of pictures of this size. extrinsics: camera -> robot base, hand_eye: camera -> gripper; in meters, with
# the camera's axes x right, y down, z forward.
"""


@dataclass(frozen=True)
class RobotCalibration:
    """The cameras of one robot by name, such as front and wrist. Raises InputError where there is none."""

    cameras: Mapping[str, CalibratedCamera]

    def __post_init__(self) -> None:
        if not self.cameras:
            raise InputError("A calibration has at least one camera; list them under 'cameras'.")

    @classmethod
    def load(cls, path: str | Path) -> RobotCalibration:
        """Raises InputError, naming the file and the camera, for entries that are unknown, missing or cannot be."""
        content = load_entries(path, "calibration")
        try:
            cameras = from_entries(_File, content, "a calibration").cameras
            return cls({str(name): _camera(str(name), entries) for name, entries in cameras.items()})
        except InputError as error:
            raise InputError(f"In {path}: {error}") from None

    def camera(self, name: str) -> CalibratedCamera:
        """Raises InputError, with the closest names, where there is none of this name."""
        if name not in self.cameras:
            raise InputError(f"The calibration has no camera {name!r}; {did_you_mean(name, self.cameras)}")
        return self.cameras[name]

    def with_camera(self, name: str, camera: CalibratedCamera) -> RobotCalibration:
        """The same with a camera added, or replaced."""
        return RobotCalibration({**self.cameras, name: camera})

    def save(self, path: str | Path) -> None:
        """Writes the file, whole or not at all. What `load` reads from it is the same to the last bit."""
        cameras = {name: dict(_entries(camera)) for name, camera in self.cameras.items()}
        text = yaml.safe_dump({"cameras": cameras}, sort_keys=False, width=110, allow_unicode=True)
        with replacing(Path(path)) as partial:
            partial.write_text(_EXPLANATION + text, encoding="utf-8")


@dataclass(frozen=True)
class _File:
    """All that a file holds."""

    cameras: dict  # type: ignore[type-arg]  # each is read by `_camera`, which can name it


@dataclass(frozen=True)
class _Camera:
    """A camera as it is written."""

    K: _Rows
    height: int
    width: int
    extrinsics: _Rows | None = None
    hand_eye: _Rows | None = None
    depth_range: tuple[float, ...] | None = None
    mirrored: bool = False


def _camera(name: str, entries: Any) -> CalibratedCamera:
    written = from_entries(_Camera, entries, "a camera", f"cameras.{name}")
    try:
        return CalibratedCamera(
            Camera(_matrix(written.K, "K"), written.height, written.width),
            _optional(written.extrinsics, "extrinsics"),
            _optional(written.hand_eye, "hand_eye"),
            _range(written.depth_range),
            written.mirrored,
        )
    except InputError as error:
        raise InputError(f"cameras.{name}: {error}") from None


def _matrix(rows: _Rows, what: str) -> np.ndarray:
    if len({len(row) for row in rows}) != 1:
        raise InputError(f"{what} is no matrix; give rows of the same length.")
    return np.array(rows, np.float64)


def _optional(rows: _Rows | None, what: str) -> np.ndarray | None:
    return None if rows is None else _matrix(rows, what)


def _range(ends: tuple[float, ...] | None) -> tuple[float, float] | None:
    if ends is None:
        return None
    if len(ends) != 2:
        raise InputError(f"depth_range has the nearest and the farthest distance, not {len(ends)} numbers.")
    return ends[0], ends[1]


def _entries(camera: CalibratedCamera) -> Iterator[tuple[str, Any]]:
    yield "K", _Flow([_Flow(row) for row in camera.camera.intrinsics.tolist()])
    yield "height", camera.camera.height
    yield "width", camera.camera.width
    for name, matrix in (("extrinsics", camera.extrinsics), ("hand_eye", camera.hand_eye)):
        if matrix is not None:
            yield name, [_Flow(row) for row in matrix.tolist()]
    if camera.depth_range is not None:
        yield "depth_range", _Flow(camera.depth_range)
    if camera.mirrored:
        yield "mirrored", True


class _Flow(list):  # type: ignore[type-arg]
    """A list that is written on one line."""


yaml.SafeDumper.add_representer(
    _Flow, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)
