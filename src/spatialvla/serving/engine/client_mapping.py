"""What a client calls its image, prompt, depth and camera, and what it understands by an action.

A mapping is a small YAML file in assets/mappings, or one of your own; docs/how-to/serve.md has its entries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.actions.fitting import check_fit
from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.common.yaml_files import load, number, whole_number
from spatialvla.errors import InputError
from spatialvla.geometry.camera import turn_intrinsics
from spatialvla.geometry.extrinsics import turn_extrinsics
from spatialvla.serving.guard.limits import Limits, require_sendable
from spatialvla.types import Observation

_NUMBER = (int, float, np.integer, np.floating)


@dataclass(frozen=True)
class ClientMapping:
    """Both ways between one kind of client and the policy.

    image, prompt: keys the client sends. depth, intrinsics, extrinsics, state: keys it may send, None where it has
    none. mirrored: the client's image is flipped left to right.
    rotate_180: turn the image (and depth, K and extrinsics with it) before the policy sees it.
    position: indices of the gripper's x, y, z (meters) in `state`.
    gripper_open, gripper_closed: the numbers that the client takes.
    units: of the actions that the client takes, as far as it is known; policies of other units are refused.
    horizon: steps of a chunk without which the stock client stops; 0 where any number does.
    limits: the robot's, by name, or by path beside the mapping's file; used unless the server is told others.
    ignored: keys that the client sends for other policies.
    """

    name: str
    image: str
    prompt: str
    depth: str | None = None
    intrinsics: str | None = None
    extrinsics: str | None = None
    mirrored: bool = False
    state: str | None = None
    rotate_180: bool = False
    position: tuple[int, int, int] | None = None
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

    def check(self, limits: Limits, units: ActionUnits, needs_extrinsics: bool = False) -> None:
        """Raises InputError where this client and a server do not fit.

        So where the limits need the gripper's position and the client cannot tell it, or the policy the camera's
        extrinsics, and where it takes other actions than the policy's, as far as both are known.
        """
        if needs_extrinsics and self.extrinsics is None:
            raise InputError(
                f"The policy has to know where the camera stands, but the mapping {self.name!r} does not say under "
                "which key the client sends it; add extrinsics to it (4x4, camera -> robot base, meters)."
            )
        if limits.workspace is not None and (self.state is None or self.position is None):
            raise InputError(
                f"The limits have a workspace, but the mapping {self.name!r} does not say where the gripper's "
                "position is; add state and position to it, or choose limits without a workspace."
            )
        advice = "choose a checkpoint and --dataset that fit, or copy the mapping and correct its units"
        taker = f"The client of the mapping {self.name!r}"
        check_fit(units, self.units, taker, unknown_units=True, advice=advice)

    def keys(self) -> dict[str, str]:
        """What the client calls each thing it may send, by our name for it."""
        names = {
            "image": self.image,
            "prompt": self.prompt,
            "depth": self.depth,
            "intrinsics": self.intrinsics,
            "extrinsics": self.extrinsics,
            "state": self.state,
        }
        return {name: key for name, key in names.items() if key is not None}

    def observation(self, message: Mapping[str, Any]) -> Observation:
        """What the policy sees. Raises InputError where a key is missing or holds something else."""
        image, prompt = self._required(message, self.image), self._required(message, self.prompt)
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"{self.image!r} must be an array (H, W, 3) of uint8, got {type(image).__name__}."
            )
        if not isinstance(prompt, str):
            raise InputError(f"{self.prompt!r} must be a string, got {type(prompt).__name__}.")
        depth = self._array(message, self.depth)
        intrinsics = self._array(message, self.intrinsics)
        extrinsics = self._array(message, self.extrinsics)
        if extrinsics is not None and extrinsics.shape != (4, 4):
            raise InputError(f"{self.extrinsics!r} must be a 4x4 matrix, got shape {extrinsics.shape}.")
        seen = Observation(image, prompt, intrinsics, depth, extrinsics, self.mirrored)
        return _turned(seen) if self.rotate_180 else seen

    def gripper_position(self, message: Mapping[str, Any]) -> np.ndarray | None:
        """(3,) meters, None where the client does not tell it. Raises InputError for a state without it."""
        state = self._array(message, self.state)
        if state is None or self.position is None:
            return None
        if state.ndim != 1 or len(state) <= max(self.position):
            raise InputError(
                f"{self.state!r} has shape {state.shape}, but its entries {self.position} are needed."
            )
        position = state[list(self.position)].astype(np.float64)
        if not np.isfinite(position).all():
            raise InputError(f"{self.state!r} contains NaN or infinity.")
        return position

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """(k, 7) as the policy says them (gripper 1 = open) -> as the client takes them.

        Raises UnsafeAction where one is not finite.
        """
        sent = actions.copy()
        sent[:, 6] = self.gripper_closed + (self.gripper_open - self.gripper_closed) * actions[:, 6]
        return require_sendable(sent)

    def _required(self, message: Mapping[str, Any], key: str) -> Any:
        if key not in message:
            raise InputError(
                f"The observation lacks {key!r}; it has {_shown(message)}. "
                f"The server's mapping is {self.name!r} (--mapping)."
            )
        return message[key]

    def _array(self, message: Mapping[str, Any], key: str | None) -> np.ndarray | None:
        value = message.get(key) if key else None
        if value is None:
            return None
        if not isinstance(value, np.ndarray | list | tuple):
            raise InputError(f"{key!r} must be an array of numbers, got {type(value).__name__}.")
        # NumPy makes each string in a list as long as the longest, so it never sees one.
        if not isinstance(value, np.ndarray) and not _only_numbers(value):
            raise InputError(f"{key!r} must be an array of numbers, or lists of numbers of one length.")
        array = np.asarray(value)
        if array.dtype.kind not in "fiu" or array.size == 0:
            raise InputError(
                f"{key!r} must be an array of numbers, got {array.dtype} of shape {array.shape}."
            )
        return array


def _shown(message: Mapping[str, Any]) -> str:
    """The first of a message's keys, however many and long they are."""
    return ", ".join(key[:40] for key in sorted(message)[:12]) or "nothing"


def _only_numbers(values: Sequence[Any], deepest: int = 4) -> bool:
    """Whether values are numbers, or lists of one length of such."""
    lists = [value for value in values if isinstance(value, list | tuple)]
    if not lists:
        return all(isinstance(value, _NUMBER) and not isinstance(value, bool) for value in values)
    alike = len(lists) == len(values) and len({len(value) for value in lists}) == 1
    return deepest > 1 and alike and all(_only_numbers(value, deepest - 1) for value in lists)


def _turned(seen: Observation) -> Observation:
    """The same scene seen by a camera held the other way up."""
    image = np.asarray(seen.image)
    intrinsics = seen.intrinsics
    if intrinsics is not None and np.shape(intrinsics) == (3, 3) and image.ndim >= 2:
        intrinsics = turn_intrinsics(np.asarray(intrinsics), image.shape[:2])
    depth = None if seen.depth is None else seen.depth[::-1, ..., ::-1]
    extrinsics = None if seen.extrinsics is None else turn_extrinsics(seen.extrinsics)
    return replace(seen, image=image[::-1, ::-1], intrinsics=intrinsics, depth=depth, extrinsics=extrinsics)


def _parse(path: Path, raw: dict[str, Any]) -> ClientMapping:
    known = {field.name for field in fields(ClientMapping)} - {"name"}
    if unknown := set(raw) - known:
        raise ValueError(f"unknown entries {sorted(unknown)}")
    return ClientMapping(
        path.stem,
        image=_text(raw["image"], "image"),
        prompt=_text(raw["prompt"], "prompt"),
        depth=_optional_text(raw, "depth"),
        intrinsics=_optional_text(raw, "intrinsics"),
        extrinsics=_optional_text(raw, "extrinsics"),
        mirrored=_flag(raw, "mirrored"),
        state=_optional_text(raw, "state"),
        rotate_180=_flag(raw, "rotate_180"),
        position=_position(raw["position"]) if "position" in raw else None,
        **_gripper(raw),
        units=_units(raw.get("units", {})),
        horizon=whole_number(raw.get("horizon", 0), "horizon"),
        limits=_limits(_optional_text(raw, "limits"), path.parent),
        ignored=tuple(str(key) for key in raw.get("ignored", ())),
    )


def _text(value: object, entry: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{entry} must be a string")
    return value


def _optional_text(raw: dict[str, Any], entry: str) -> str | None:
    return _text(raw[entry], entry) if entry in raw else None


def _flag(raw: dict[str, Any], entry: str) -> bool:
    value = raw.get(entry, False)
    if not isinstance(value, bool):
        raise ValueError(f"{entry} must be true or false")
    return value


def _limits(named: str | None, folder: Path) -> str | None:
    """A shipped robot's name as it is, a file's path from the mapping's folder."""
    return named if named is None or re.fullmatch(r"[\w-]+", named) else str(folder / named)


def _gripper(raw: dict[str, Any]) -> dict[str, float]:
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


def _position(raw: object) -> tuple[int, int, int]:
    indices = [whole_number(index, "position") for index in raw] if isinstance(raw, list) else []
    if len(set(indices)) != 3 or len(indices) != 3:
        raise ValueError("position must be three different indices into the state, from 0")
    return (indices[0], indices[1], indices[2])
