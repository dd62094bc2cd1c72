"""What a robot may be told in one step: the last change to actions before they leave, in every protocol."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import numpy as np

from spatialvla.actions.units import ActionUnits, Frame, Rotation
from spatialvla.common.yaml_files import load, number
from spatialvla.errors import InputError
from spatialvla.serving.failures import UnsafeAction

_FARTHEST_OUTSIDE = 2.0
"""Meters between a workspace and a gripper that may come back into it."""


@dataclass(frozen=True)
class Workspace:
    """Where the gripper may be. low, high: corners (3,), meters, in the frame of the client's pose."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Limits:
    """A robot's limits for one action step; None where it has none.

    translation: meters, length of (Δx, Δy, Δz). rotation: radians, length of (Δroll, Δpitch, Δyaw).
    gripper: its range, 1 = open. workspace: where the gripper may be; without its position nothing is sent.
    meters_per_unit, radians_per_unit: what 1 in the policy's actions means to the robot. notation: of its three
    numbers of rotation. frame: whose axes its motions are along. None where the checkpoint has to tell, see
    `in_units`.
    """

    translation: float | None = None
    rotation: float | None = None
    gripper: tuple[float, float] = (0.0, 1.0)
    workspace: Workspace | None = None
    meters_per_unit: float | None = None
    radians_per_unit: float | None = None
    notation: Rotation | None = None
    frame: Frame | None = None

    @classmethod
    def load(cls, name_or_path: str) -> Limits:
        """The limits of a shipped robot by name, or of a YAML file by path. Raises InputError."""
        return load("set of limits", name_or_path, lambda _, raw: _parse(raw), folder="limits")

    def in_units(self, units: ActionUnits) -> Limits:
        """These limits for a policy whose actions have these units.

        Raises InputError where the two contradict each other, and where nobody tells a unit that is needed.
        """
        if differences := self.units.differences(units):
            raise InputError(
                f"The limits are for other actions than the policy's: {'; '.join(differences)}; choose limits for this "
                "policy's units."
            )
        known = self.units.filled(units)
        resolved = replace(
            self,
            meters_per_unit=known.meters,
            radians_per_unit=known.radians,
            notation=known.rotation,
            frame=known.frame,
        )
        resolved._require_units()
        return resolved

    @property
    def units(self) -> ActionUnits:
        """What the limits say of the policy's actions."""
        return ActionUnits(self.meters_per_unit, self.radians_per_unit, self.notation, self.frame)

    def _require_units(self) -> None:
        far = self.translation is not None or self.workspace is not None
        if (far and self.meters_per_unit is None) or (
            self.rotation is not None and self.radians_per_unit is None
        ):
            raise InputError(
                "The limits are in meters and radians, but neither they nor the checkpoint say what 1 in an "
                "action is; add meters_per_unit and radians_per_unit to them."
            )
        if self.workspace is not None and self.frame != "base":
            raise InputError(
                "The limits have a workspace, which lies in the base's frame, but the actions' frame is "
                f"{self.frame or 'unknown'}; add 'frame: base' to them if the actions are along the base's axes, "
                "or leave the workspace out."
            )

    def apply(
        self,
        actions: np.ndarray,
        position: np.ndarray | None = None,
        under_way: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Actions (k, 7) within the limits, and how many steps each limit changed.

        Too long a step keeps its direction. position: (3,) meters, where the gripper is before the first
        step; steps that would leave the workspace stop at its wall, and a gripper outside may only come back.
        under_way: (P, 7) earlier actions, of which any number d may be executed first; then the robot goes on with
        step d of these. The workspace is kept whatever d is. Only their translations count.
        Raises UnsafeAction for NaN, infinity or another shape, InputError as `require_position`.
        """
        self.require_position(position)
        self._require_units()
        meters, radians = self.meters_per_unit or 1.0, self.radians_per_unit or 1.0
        if actions.ndim != 2 or actions.shape[1] != 7 or not np.isfinite(actions).all():
            raise UnsafeAction("The policy's actions are not finite rows of 7 numbers; none of them is sent.")
        limited = actions.astype(np.float64)
        _shorten(limited[:, 0:3], self.translation, meters)
        _shorten(limited[:, 3:6], self.rotation, radians)
        limited[:, 6] = limited[:, 6].clip(*self.gripper)
        changed = {
            "translation": _rows_changed(actions[:, 0:3], limited[:, 0:3]),
            "rotation": _rows_changed(actions[:, 3:6], limited[:, 3:6]),
            "gripper": _rows_changed(actions[:, 6:], limited[:, 6:]),
        }
        if self.workspace is not None and position is not None:  # required above
            moves = limited[:, :3].copy()
            places = np.asarray(position, np.float64)[None]
            if under_way is not None:
                places = _on_the_way(places, under_way[: len(actions) - 1, :3] * meters, self.workspace)
            _stay_inside(limited[:, :3], self.workspace, places, meters)
            changed["workspace"] = _rows_changed(moves, limited[:, :3])
        return limited, {name: steps for name, steps in changed.items() if steps}

    def require_position(self, position: np.ndarray | None) -> None:
        """Raises InputError where a workspace cannot be kept: nobody tells where the gripper is, or not in meters.

        Were a position in millimeters believed, the gripper would seem to be outside, and may move back without end.
        """
        if self.workspace is not None and position is None:
            raise InputError(
                "The server keeps the gripper in a workspace, but the observation does not tell its position; "
                "send it, or start the server with limits that have no workspace."
            )
        if self.workspace is not None and position is not None:
            outside = _outside(position, self.workspace)
            if not outside <= _FARTHEST_OUTSIDE:
                raise InputError(
                    f"The gripper's position is {outside:g} m outside the workspace, which no arm reaches; send "
                    "meters in the workspace's frame, not millimeters."
                )

    def describe(self) -> str:
        """What holds, in one sentence for whoever starts a server."""
        parts = []
        if self.translation is not None:
            parts.append(f"{self.translation:g} m a step")
        if self.rotation is not None:
            parts.append(f"{self.rotation:g} rad a step")
        if self.workspace is not None:
            low, high = (
                ", ".join(f"{end:g}" for end in c) for c in (self.workspace.low, self.workspace.high)
            )
            parts.append(f"a workspace from ({low}) to ({high}) m")
        gripper = f"a gripper from {self.gripper[0]:g} to {self.gripper[1]:g}"
        actions = f"actions {self.units.describe()}"
        if not parts:
            return f"Limits: NONE but {gripper}, {actions}; whatever the policy says moves the robot."
        return f"Limits: at most {', '.join(parts)}, {gripper}; {actions}."


def _stay_inside(moves: np.ndarray, box: Workspace, places: np.ndarray, unit: float) -> None:
    """Ends the rows of `moves` (k, 3), in place, at the walls of the box.

    places: (P + 1, 3) meters, where the gripper may be: row d for one that begins with row d of `moves`. Each row is
    made to fit all places that it may begin from.
    """
    places = places.copy()
    for row, move in enumerate(moves * unit):
        begun = places[: row + 1]
        least = (np.minimum(box.low, begun) - begun).max(axis=0)
        most = (np.maximum(box.high, begun) - begun).min(axis=0)
        possible = move.clip(least, most)
        moves[row] = np.where(possible == move, moves[row], possible / unit)
        begun += possible


def _on_the_way(position: np.ndarray, moves: np.ndarray, box: Workspace) -> np.ndarray:
    """(P + 1, 3) meters: the position (1, 3), and where the gripper is after each of these moves (P, 3), in meters.

    Raises InputError for moves that no robot was sent.
    """
    places = np.concatenate([position, position + np.cumsum(moves, axis=0, dtype=np.float64)])
    outside = _outside(places, box)
    if not outside <= _FARTHEST_OUTSIDE:
        raise InputError(
            f"The actions under way lead {outside:g} m outside the workspace, where none was sent; send those that "
            "the server answered and the robot has not executed yet."
        )
    return places


def _outside(places: np.ndarray, box: Workspace) -> float:
    """Meters between the box and the farthest of these places (…, 3), along the worst axis; below 0 inside."""
    return float(np.maximum(box.low - places, places - box.high).max())


def require_sendable(actions: np.ndarray) -> np.ndarray:
    """Actions in a client's own convention, as they were: the last check before the wire.

    Raises UnsafeAction where a number is NaN or infinite, or becomes so in float32, which clients take.
    """
    if not (np.abs(actions) <= np.finfo(np.float32).max).all():
        raise UnsafeAction("The actions are not finite as the client takes them; none of them is sent.")
    return actions


def _shorten(vectors: np.ndarray, longest: float | None, unit: float) -> None:
    """Scales the rows of `vectors` (k, 3) down, in place, to a length of at most `longest`."""
    if longest is not None:
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True) * unit
        vectors *= np.minimum(1.0, longest / np.maximum(lengths, 1e-12))


def _rows_changed(before: np.ndarray, after: np.ndarray) -> int:
    return int((before != after).any(axis=1).sum())


def _parse(raw: dict[str, Any]) -> Limits:
    known = {field.name for field in fields(Limits)}
    if unknown := set(raw) - known:
        raise ValueError(f"unknown entries {sorted(unknown)}")
    gripper = _numbers(raw.get("gripper", [0, 1]), "gripper")
    if len(gripper) != 2 or not -np.inf < gripper[0] <= gripper[1] < np.inf:
        raise ValueError(f"gripper must be its two finite ends, the smaller first, got {gripper}")
    return Limits(
        translation=_positive(raw, "translation"),
        rotation=_positive(raw, "rotation"),
        gripper=gripper,
        workspace=_workspace(raw["workspace"]) if "workspace" in raw else None,
        meters_per_unit=_positive(raw, "meters_per_unit"),
        radians_per_unit=_positive(raw, "radians_per_unit"),
        notation=_word(raw, "notation", get_args(Rotation)),
        frame=_word(raw, "frame", get_args(Frame)),
    )


def _positive(raw: dict[str, Any], name: str) -> float | None:
    """A length or a unit, None where it is not given."""
    if name not in raw:
        return None
    size = number(raw[name], name)
    if not (size > 0 and np.isfinite(size)):
        raise ValueError(f"lengths and units must be positive and finite, but {name} is {size:g}")
    return size


def _word(raw: dict[str, Any], name: str, words: tuple[str, ...]) -> Any:
    """One of some words, None where it is not given."""
    word = raw.get(name)
    if word is not None and word not in words:
        raise ValueError(f"{name} must be {' or '.join(words)}, not {word!r}")
    return word


def _workspace(raw: Any) -> Workspace:
    if not isinstance(raw, dict) or set(raw) != {"low", "high"}:
        raise ValueError("workspace has a low and a high corner, and nothing else")
    low, high = (np.array(_numbers(raw[end], f"workspace.{end}"), np.float64) for end in ("low", "high"))
    if low.shape != (3,) or high.shape != (3,) or not (low < high).all():
        raise ValueError("workspace must have a low and a high corner of three meters each")
    return Workspace(low, high)


def _numbers(entry: object, name: str) -> tuple[float, ...]:
    if not isinstance(entry, list):
        raise ValueError(f"{name} must be a list of numbers, got {entry!r}")
    return tuple(number(each, name) for each in entry)
