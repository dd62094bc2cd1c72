"""What a client calls its pictures, prompt and state, and what it understands by an action: one YAML file.

A mapping is a small file in assets/mappings, or one of your own; docs/how-to/serve.md has its entries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.common.yaml_files import load, number, whole_number
from spatialvla.geometry.rotations import SIZES, Notation

ANY = "*"
"""Stands for each camera that has no entry of its own."""

_KEYS = ("image", "depth", "intrinsics", "extrinsics")


@dataclass(frozen=True)
class CameraKeys:
    """What a client calls what one of its cameras sees, and how the picture lies.

    image: the key of the picture. depth, intrinsics, extrinsics: of what it may send along, None where it has none.
    mirrored: the picture is flipped left to right.
    rotate_180: turn the picture (and depth, K and extrinsics with it) before the policy sees it.
    calibrated: the camera's name in the robot's calibration file, where that is not the policy's name for it.
    """

    image: str
    depth: str | None = None
    intrinsics: str | None = None
    extrinsics: str | None = None
    mirrored: bool = False
    rotate_180: bool = False
    calibrated: str | None = None

    def keys(self) -> dict[str, str]:
        """What the client calls each thing it may send, by our name for it."""
        return {name: key for name in _KEYS if (key := getattr(self, name)) is not None}

    def of(self, camera: str) -> CameraKeys:
        """The same with a camera's name for {camera} in the keys."""
        depth, intrinsics, extrinsics = (
            None if key is None else key.replace("{camera}", camera)
            for key in (self.depth, self.intrinsics, self.extrinsics)
        )
        image = self.image.replace("{camera}", camera)
        return replace(self, image=image, depth=depth, intrinsics=intrinsics, extrinsics=extrinsics)


@dataclass(frozen=True)
class GripperKeys:
    """Where the client says how the gripper stands.

    key: of the numbers. position: indices of x, y, z (meters). rotation: indices of its rotation in `notation`, none
    where it is not told.
    base: where the arm's base is in the frame of the position, whose axes are along it (meters); None where that is
    not known, as of scenes in which it differs.
    fingertips: where they are in the gripper's frame (meters); None where the position is theirs.
    """

    key: str
    position: tuple[int, int, int]
    rotation: tuple[int, ...] = ()
    notation: Notation = "none"
    base: tuple[float, float, float] | None = (0.0, 0.0, 0.0)
    fingertips: tuple[float, float, float] | None = None

    @property
    def tells_pose(self) -> bool:
        """Whether it is known how the gripper stands in the robot's frame."""
        return bool(self.rotation) and self.base is not None


@dataclass(frozen=True)
class ClientMapping:
    """One kind of client.

    first: of the policy's first camera. cameras: of its other ones, by the policy's names for them, or `ANY`.
    prompt: the instruction's key. state: keys of the arm's own numbers, one after the other; none where it has none.
    gripper: where it says how the gripper stands, None where it does not.
    gripper_open, gripper_closed: the numbers that the client takes.
    units: of the actions that the client takes, as far as it is known; policies of other units are refused.
    horizon: steps of a chunk without which the stock client stops; 0 where any number does.
    limits: the robot's, by name, or by path beside the mapping's file; used unless the server is told others.
    ignored: keys that the client sends for other policies.
    """

    name: str
    first: CameraKeys
    prompt: str
    cameras: Mapping[str, CameraKeys] = field(default_factory=dict)
    state: tuple[str, ...] = ()
    gripper: GripperKeys | None = None
    gripper_open: float = 1.0
    gripper_closed: float = 0.0
    units: ActionUnits = UNKNOWN
    horizon: int = 0
    limits: str | None = None
    ignored: tuple[str, ...] = ()

    @classmethod
    def load(cls, name_or_path: str) -> ClientMapping:
        """A shipped mapping by name, or a file of your own by path. Raises InputError."""
        return load("mapping", name_or_path, _parse, folder="mappings")

    def camera(self, name: str) -> CameraKeys | None:
        """Of one of the policy's other cameras; None where the client has none for it."""
        keys = self.cameras.get(name, self.cameras.get(ANY))
        return None if keys is None else keys.of(name)

    def keys(self) -> dict[str, str]:
        """What the client calls the first camera's parts, the prompt and the numbers, by our name for each."""
        keys = {**self.first.keys(), "prompt": self.prompt}
        if self.gripper is not None:
            keys["position"] = self.gripper.key
        if len(self.state) == 1:
            keys["state"] = self.state[0]
        return keys


_OF_CAMERA = {entry.name for entry in fields(CameraKeys)}
_ENTRIES = _OF_CAMERA | {
    *["prompt", "cameras", "state", "pose", "position", "rotation", "base", "fingertips"],
    *["gripper_open", "gripper_closed", "units", "horizon", "limits", "ignored"],
}


def _parse(path: Path, raw: dict[str, Any]) -> ClientMapping:
    if unknown := set(raw) - _ENTRIES:
        raise ValueError(f"unknown entries {sorted(unknown)}")
    others = raw.get("cameras", {})
    if not isinstance(others, dict):
        raise ValueError("cameras has an entry for each further camera, by the policy's name for it")
    state = _keys(raw["state"]) if "state" in raw else ()
    return ClientMapping(
        path.stem,
        first=_camera({name: value for name, value in raw.items() if name in _OF_CAMERA}),
        prompt=_text(raw["prompt"], "prompt"),
        cameras={str(name): _other_camera(str(name), entries) for name, entries in others.items()},
        state=state,
        gripper=_gripper_keys(raw, state),
        **_gripper_ends(raw),
        units=_units(raw.get("units", {})),
        horizon=whole_number(raw.get("horizon", 0), "horizon"),
        limits=_limits(_optional_text(raw, "limits"), path.parent),
        ignored=tuple(str(key) for key in raw.get("ignored", ())),
    )


def _camera(raw: dict[str, Any]) -> CameraKeys:
    return CameraKeys(
        image=_text(raw["image"], "image"),
        depth=_optional_text(raw, "depth"),
        intrinsics=_optional_text(raw, "intrinsics"),
        extrinsics=_optional_text(raw, "extrinsics"),
        mirrored=_flag(raw, "mirrored"),
        rotate_180=_flag(raw, "rotate_180"),
        calibrated=_optional_text(raw, "calibrated"),
    )


def _other_camera(name: str, raw: object) -> CameraKeys:
    if not isinstance(raw, dict) or "image" not in raw or set(raw) - _OF_CAMERA:
        raise ValueError(
            f"cameras.{name} has an image, and of the entries {', '.join(sorted(_OF_CAMERA))} any"
        )
    try:
        return _camera(raw)
    except ValueError as error:
        raise ValueError(f"cameras.{name}: {error}") from None


def _gripper_keys(raw: dict[str, Any], state: tuple[str, ...]) -> GripperKeys | None:
    if "position" not in raw:
        if stray := {"rotation", "pose", "base", "fingertips"} & set(raw):
            raise ValueError(f"{min(stray)} needs a position, the indices of the gripper's x, y, z")
        return None
    position = _position(raw["position"])
    key = _optional_text(raw, "pose")
    if key is None:
        if len(state) != 1:
            raise ValueError("position is of the key that pose names, or of the one that state does")
        key = state[0]
    base = None if raw.get("base") == "unknown" else _place(raw.get("base", [0, 0, 0]), "base")
    fingertips = _place(raw["fingertips"], "fingertips") if "fingertips" in raw else None
    if "rotation" not in raw:
        if fingertips is not None:
            raise ValueError("fingertips are in the gripper's frame, so they need its rotation")
        return GripperKeys(key, position, base=base)
    rotation = raw["rotation"]
    if not isinstance(rotation, dict) or set(rotation) != {"indices", "notation"}:
        raise ValueError("rotation has indices and a notation")
    notation = rotation["notation"]
    if notation not in get_args(Notation) or notation == "none":
        raise ValueError(f"a rotation's notation is euler, axis_angle or quaternion_xyzw, not {notation!r}")
    indices = _indices(rotation["indices"], "rotation")
    if len(set(indices)) != SIZES[notation]:
        raise ValueError(f"a rotation in {notation} has {SIZES[notation]} different indices, from 0")
    return GripperKeys(key, position, indices, notation, base, fingertips)


def _text(value: object, entry: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{entry} must be a string")
    return value


def _optional_text(raw: dict[str, Any], entry: str) -> str | None:
    return _text(raw[entry], entry) if entry in raw else None


def _keys(value: object) -> tuple[str, ...]:
    keys = value if isinstance(value, list) else [value]
    if not keys or len(set(map(str, keys))) != len(keys):
        raise ValueError("state is a key, or a list of different ones")
    return tuple(_text(key, "state") for key in keys)


def _flag(raw: dict[str, Any], entry: str) -> bool:
    value = raw.get(entry, False)
    if not isinstance(value, bool):
        raise ValueError(f"{entry} must be true or false")
    return value


def _limits(named: str | None, folder: Path) -> str | None:
    """A shipped robot's name as it is, a file's path from the mapping's folder."""
    return named if named is None or re.fullmatch(r"[\w-]+", named) else str(folder / named)


def _gripper_ends(raw: dict[str, Any]) -> dict[str, float]:
    ends = {
        "gripper_open": number(raw.get("gripper_open", 1), "gripper_open"),
        "gripper_closed": number(raw.get("gripper_closed", 0), "gripper_closed"),
    }
    if not np.isfinite(list(ends.values())).all() or len(set(ends.values())) < 2:
        raise ValueError(
            f"gripper_open and gripper_closed must be two finite numbers, got {list(ends.values())}"
        )
    return ends


def _units(raw: Any) -> ActionUnits:
    known = {"meters", "radians", "rotation", "frame", "control_hz"}
    if not isinstance(raw, Mapping) or set(raw) - known:
        raise ValueError(f"units has the entries {', '.join(sorted(known))}")
    return ActionUnits(**raw)


def _place(raw: object, entry: str) -> tuple[float, float, float]:
    where = [number(each, entry) for each in raw] if isinstance(raw, list) else []
    if len(where) != 3 or not np.isfinite(where).all():
        raise ValueError(f"{entry} must be x, y, z in meters, three finite numbers")
    return (where[0], where[1], where[2])


def _indices(raw: object, entry: str) -> tuple[int, ...]:
    return tuple(whole_number(index, entry) for index in raw) if isinstance(raw, list) else ()


def _position(raw: object) -> tuple[int, int, int]:
    indices = _indices(raw, "position")
    if len(set(indices)) != 3 or len(indices) != 3:
        raise ValueError("position must be three different indices into the state, from 0")
    return (indices[0], indices[1], indices[2])
