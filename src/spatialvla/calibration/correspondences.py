"""Correspondences: a table of what was seen where, as a CSV file or a list of rows in YAML."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from spatialvla.common.entries import load_entries
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import check_gripper_pose, pose_matrix
from spatialvla.geometry.rotations import Notation, matrices

_PIXEL, _POINT = ("u", "v"), ("x", "y", "z")
_GRIPPER = ("gripper_x", "gripper_y", "gripper_z")
_TURNS: Mapping[Notation, tuple[str, ...]] = {
    "axis_angle": ("gripper_rx", "gripper_ry", "gripper_rz"),
    "euler": ("gripper_roll", "gripper_pitch", "gripper_yaw"),
    "quaternion_xyzw": ("gripper_qx", "gripper_qy", "gripper_qz", "gripper_qw"),
}
_PICTURE = "picture"
_KNOWN = (*_PIXEL, *_POINT, *_GRIPPER, *(name for names in _TURNS.values() for name in names), _PICTURE)
_LARGEST_FILE = 2**24


@dataclass(frozen=True)
class Correspondences:
    """Rows of a table; what it has no columns for is None.

    seen: (N, 2) pixels u v. points: (N, 3) what is seen there, meters in the robot's frame. gripper_poses:
    (N, 4, 4) gripper -> robot base when it was seen. pictures: files. names: of the rows, for sentences.
    """

    seen: Float[np.ndarray, "N 2"] | None
    points: Float[np.ndarray, "N 3"] | None
    gripper_poses: Float[np.ndarray, "N 4 4"] | None
    pictures: tuple[Path, ...] | None
    names: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> Correspondences:
        """Raises InputError, naming the file and the row, where it cannot be read or a number is none."""
        try:
            rows, names = _yaml_rows(path) if path.suffix in (".yaml", ".yml") else _csv_rows(path)
            columns = _columns(rows, names)
            table = _Table(rows, names, columns)
            pictures = None
            if _PICTURE in columns:
                pictures = tuple(path.parent / str(row[_PICTURE]) for row in rows)
            return cls(
                table.numbers(_PIXEL), table.numbers(_POINT), _gripper_poses(table), pictures, tuple(names)
            )
        except InputError as error:
            raise InputError(f"In {path}: {error}") from None


@dataclass(frozen=True)
class _Table:
    rows: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    columns: Sequence[str]

    def numbers(self, wanted: Sequence[str]) -> np.ndarray | None:
        """(N, len(wanted)); None where there is none of these columns. Raises InputError where some are missing."""
        there = [name for name in wanted if name in self.columns]
        if not there:
            return None
        if missing := [name for name in wanted if name not in there]:
            raise InputError(f"column {missing[0]} is missing; {', '.join(wanted)} belong together.")
        return np.array(
            [
                [_number(row[name], f"{label}, {name}") for name in wanted]
                for row, label in zip(self.rows, self.names, strict=True)
            ]
        )


def _gripper_poses(table: _Table) -> np.ndarray | None:
    positions = table.numbers(_GRIPPER)
    turns = {
        notation: found for notation, names in _TURNS.items() if (found := table.numbers(names)) is not None
    }
    if positions is None and not turns:
        return None
    if positions is None or len(turns) != 1:
        ways = "; or ".join(", ".join(names) for names in _TURNS.values())
        raise InputError(f"the gripper's pose needs {', '.join(_GRIPPER)}, and one rotation: {ways}.")
    ((notation, numbers),) = turns.items()
    if notation == "quaternion_xyzw" and (np.abs(np.linalg.norm(numbers, axis=1) - 1) > 0.01).any():
        raise InputError("the gripper's quaternions x y z w must have length 1.")
    if notation != "quaternion_xyzw" and np.abs(numbers).max() > 2 * np.pi + 0.01:
        raise InputError("the gripper's rotation has angles beyond 2π; give radians, not degrees.")
    poses = pose_matrix(positions, matrices(numbers, notation))
    for pose, name in zip(poses, table.names, strict=True):
        try:
            check_gripper_pose(pose)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    return poses


def _csv_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError("it is larger than any table of correspondences.")
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(row for row in file if row.strip() and not row.startswith("#"))
            rows = [{str(key).strip(): value for key, value in row.items()} for row in lines]
    except FileNotFoundError:
        raise InputError("the file does not exist; name a CSV or YAML file.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"it is no readable CSV ({error}).") from None
    return rows, [f"row {number}" for number in range(1, len(rows) + 1)]


def _yaml_rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    content = load_entries(path, "table of correspondences")
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise InputError(
            "it is no list of rows; write lines such as '- {u: 10, v: 20, x: 0.1, y: 0, z: 0.2}'."
        )
    rows = [{str(key): value for key, value in row.items()} for row in content]
    return rows, [f"row {number}" for number in range(1, len(rows) + 1)]


def _columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """What the rows have, which is the same for all."""
    if not rows:
        raise InputError("there is no row; write one for each point that was seen.")
    columns = list(rows[0])
    for row, name in zip(rows, names, strict=True):
        if unknown := [key for key in row if key not in _KNOWN]:
            raise InputError(f"column {unknown[0]!r} is unknown; {did_you_mean(unknown[0], _KNOWN)}")
        if missing := [key for key in columns if row.get(key) in (None, "")]:
            raise InputError(f"{name} has no {missing[0]}; each row has {', '.join(columns)}.")
        if extra := [key for key in row if key not in columns]:
            raise InputError(f"{name} has {extra[0]}, which the first row lacks.")
    return columns


def _number(value: Any, what: str) -> float:
    try:
        number = (
            float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        )
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{what} is {value!r}, which is no finite number; leave out rows that were not seen."
        )
    return number
