"""What a client calls its pictures, prompt and state, and what it understands by an action: one YAML file.

A mapping is a small file in assets/mappings, or one of your own; docs/how-to/serve.md has its entries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from spatialvla.actions.fitting import check_fit
from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.common.yaml_files import load, number, whole_number
from spatialvla.errors import InputError
from spatialvla.geometry.rotations import SIZES, Notation
from spatialvla.serving.engine.client_keys import CameraKeys, GripperKeys, StateLayout, StatePart
from spatialvla.serving.guard.limits import Limits

ANY = "*"
"""Stands for each camera that has no entry of its own."""


@dataclass(frozen=True)
class ClientMapping:
    """One kind of client.

    first: of the policy's first camera. cameras: of its other ones, by the policy's names for them, or `ANY`.
    prompt: the instruction's key. states: how the arm stands, in each layout that its messages have the numbers of.
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
    states: tuple[StateLayout, ...] = ()
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

    def state_for(self, names: Sequence[str]) -> StateLayout | None:
        """The layout of a policy whose numbers have these names; None where the client has none, or only others.

        Names that only count, as in state_0, state_1, say nothing: then it is the first layout.
        """
        counted = len({name.rstrip("0123456789") for name in names}) == 1
        fitting = (one for one in self.states if counted or one.names in ((), tuple(names)))
        return next(fitting, None)

    def check_actions(self, units: ActionUnits, limits: Limits) -> None:
        """Raises InputError where the client takes other actions, or does not tell what the limits look at.

        units: of the policy's actions.
        """
        if limits.workspace is not None and self.gripper is None:
            raise InputError(
                f"The limits have a workspace, but the mapping {self.name!r} does not say where the gripper's "
                "position is; add state and position to it, or choose limits without a workspace."
            )
        advice = "choose a checkpoint and --dataset that fit, or copy the mapping and correct its units"
        taker = f"The client of the mapping {self.name!r}"
        check_fit(units, self.units, taker, unknown_units=True, advice=advice)

    def keys(self) -> dict[str, str]:
        """What the client calls the first camera's parts, the prompt and the numbers, by our name for each."""
        keys = {**self.first.keys(), "prompt": self.prompt}
        if self.gripper is not None:
            keys["position"] = self.gripper.key
        if self.states and len(self.states[0].keys) == 1:
            (keys["state"],) = self.states[0].keys
        return keys


_ZERO = StatePart(None)
_OF_CAMERA = {entry.name for entry in fields(CameraKeys)}
_ENTRIES = _OF_CAMERA | {
    *["prompt", "cameras", "state", "states", "pose", "position", "rotation", "base", "fingertips"],
    *["gripper_open", "gripper_closed", "units", "horizon", "limits", "ignored"],
}


def _parse(path: Path, raw: dict[str, Any]) -> ClientMapping:
    if unknown := set(raw) - _ENTRIES:
        raise ValueError(f"unknown entries {sorted(unknown)}")
    others = raw.get("cameras", {})
    if not isinstance(others, dict):
        raise ValueError("cameras has an entry for each further camera, by the policy's name for it")
    states = _states(raw)
    return ClientMapping(
        path.stem,
        first=_camera({name: value for name, value in raw.items() if name in _OF_CAMERA}),
        prompt=_text(raw["prompt"], "prompt"),
        cameras={str(name): _other_camera(str(name), entries) for name, entries in others.items()},
        states=states,
        gripper=_gripper_keys(raw, states),
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


def _gripper_keys(raw: dict[str, Any], states: tuple[StateLayout, ...]) -> GripperKeys | None:
    if "position" not in raw:
        if stray := {"rotation", "pose", "base", "fingertips"} & set(raw):
            raise ValueError(f"{min(stray)} needs a position, the indices of the gripper's x, y, z")
        return None
    position = _position(raw["position"])
    key = _optional_text(raw, "pose")
    if key is None:
        if len(states) != 1 or len(states[0].keys) != 1:
            raise ValueError("position is of the key that pose names, or of the one that state does")
        (key,) = states[0].keys
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


def _states(raw: dict[str, Any]) -> tuple[StateLayout, ...]:
    if "states" not in raw:
        return (StateLayout(_parts(raw["state"])),) if "state" in raw else ()
    layouts = raw["states"]
    if "state" in raw or not isinstance(layouts, list) or not layouts:
        raise ValueError("states is a list of layouts, in place of state")
    return tuple(_layout(layout) for layout in layouts)


def _layout(raw: object) -> StateLayout:
    if not isinstance(raw, dict) or set(raw) != {"keys", "names"} or not isinstance(raw["names"], list):
        raise ValueError("each of the states has keys and names")
    return StateLayout(_parts(raw["keys"]), tuple(_text(name, "names") for name in raw["names"]))


def _parts(value: object) -> tuple[StatePart, ...]:
    parts = tuple(_part(one) for one in (value if isinstance(value, list) else [value]))
    if not any(part.key for part in parts) or len(set(parts) - {_ZERO}) + parts.count(_ZERO) < len(parts):
        raise ValueError("state is a key, or a list of different ones, of keys with indices, and of 0")
    return parts


def _part(raw: object) -> StatePart:
    if raw == 0 and not isinstance(raw, bool):
        return _ZERO
    if not isinstance(raw, dict):
        return StatePart(_text(raw, "state"))
    if set(raw) != {"key", "indices"} or not _indices(raw["indices"], "state"):
        raise ValueError("a part of the state is a key, or has a key and indices")
    return StatePart(_text(raw["key"], "state"), _indices(raw["indices"], "state"))


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
