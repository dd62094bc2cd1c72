"""Action statistics of a dataset, and the q01/q99 normalization they define, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from spatialvla.actions.grids import checked_actions
from spatialvla.errors import CheckpointError, InputError

MIN_SPAN = 1e-8
"""Dimensions whose q01 and q99 lie closer (meters, radians) do not move: they normalize to 0."""

_LARGEST = 1e6
"""No unit is so small; published absolute poses in millimeters reach 637."""

_DECISIVE = ("q01", "q99", "mask")
_SUMMARY = ("mean", "std", "min", "max")


@dataclass(frozen=True, eq=False)
class ActionStatistics:
    """Statistics of a dataset's actions, in the dataset's units.

    q01, q99, mask: all that normalization takes; mask says which dimensions are normalized, usually all but
    the gripper.
    mean, std, min, max: for reports alone. A published file holds infinities there; NaN is unknown.
    num_trajectories, num_transitions: how much data they describe.
    stored: the entry of the file they were read from, which is written back as it was.
    Raises InputError on other shapes, on a q01 or q99 that is not finite or beyond 10⁶, and where q01 exceeds
    q99.
    """

    q01: Float[np.ndarray, "7"]
    q99: Float[np.ndarray, "7"]
    mean: Float[np.ndarray, "7"]
    std: Float[np.ndarray, "7"]
    min: Float[np.ndarray, "7"]
    max: Float[np.ndarray, "7"]
    mask: Bool[np.ndarray, "7"]
    num_trajectories: int
    num_transitions: int
    stored: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in (*_DECISIVE, *_SUMMARY):
            value = np.array(getattr(self, name), dtype=bool if name == "mask" else np.float64)
            if value.shape != (7,) or not (name in _SUMMARY or np.isfinite(value).all()):
                finite = "" if name in _SUMMARY else "finite "
                raise InputError(
                    f"In action statistics {name} must be 7 {finite}numbers, got {value.tolist()}."
                )
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if (reached := np.abs([self.q01, self.q99]).max()) > _LARGEST:
            raise InputError(
                f"In action statistics q01 and q99 reach {reached:g}, which no robot's motion is in any unit; the "
                "file may be damaged."
            )
        if (self.q01 > self.q99).any():
            raise InputError("In action statistics q01 exceeds q99; the two may be swapped.")

    @classmethod
    def from_actions(
        cls,
        actions: Float[np.ndarray, "n 7"],
        mask: Bool[np.ndarray, "7"] | None = None,
        num_trajectories: int = 1,
    ) -> ActionStatistics:
        """Statistics of actions (n, 7); mask defaults to all dimensions but the gripper.

        Raises InputError on an empty array, other shapes, NaN or infinity.
        """
        values = checked_actions(actions).astype(np.float64)
        if values.ndim != 2 or not len(values):
            raise InputError(f"Statistics need at least one action (n, 7), got {values.shape}.")
        q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
        return cls(
            q01=q01,
            q99=q99,
            mean=values.mean(0),
            std=values.std(0),
            min=values.min(0),
            max=values.max(0),
            mask=np.arange(7) < 6 if mask is None else mask,
            num_trajectories=num_trajectories,
            num_transitions=len(values),
        )

    def normalize(self, actions: Float[np.ndarray, "*steps 7"]) -> Float[np.ndarray, "*steps 7"]:
        """Actions (..., 7) in the dataset's units -> float64, masked dimensions clipped to [-1, 1].

        Dimensions that do not move (q99 - q01 < MIN_SPAN) become 0; unmasked ones pass as they are.
        """
        values = checked_actions(actions).astype(np.float64)
        return np.where(self.mask, between_quantiles(values, self.q01, self.q99), values)

    def beyond(self, actions: Float[np.ndarray, "*steps 7"]) -> Float[np.ndarray, "*steps 7"]:
        """What `normalize` clips: how far (..., 7) lie beyond -1 to 1, with its sign; 0 of what lies within."""
        values = checked_actions(actions).astype(np.float64)
        span = np.where(self.moves, self.q99 - self.q01, 1)
        outside = values - np.clip(values, self.q01, self.q99)
        return np.where(self.mask & self.moves, 2 * outside / span, 0.0)

    @property
    def moves(self) -> Bool[np.ndarray, "7"]:
        """The dimensions that move."""
        return np.asarray(self.q99 - self.q01 >= MIN_SPAN)

    def denormalize(self, actions: Float[np.ndarray, "*steps 7"]) -> Float[np.ndarray, "*steps 7"]:
        """The inverse between q01 and q99: normalized actions (..., 7) -> float64 in the dataset's units."""
        values = checked_actions(actions).astype(np.float64)
        return np.where(self.mask, 0.5 * (values + 1) * (self.q99 - self.q01) + self.q01, values)

    def with_symmetric_rotations(self) -> ActionStatistics:
        """The same with roll, pitch and yaw from -m to m, where m is the farther of q01 and q99 from 0.

        No rotation is then 0 when normalized: the middle of a cell, where a grid has an odd number of equal ones.
        """
        return self.with_rotations_to(np.maximum(np.abs(self.q01[3:6]), np.abs(self.q99[3:6])))

    def with_rotations_to(self, reach: Float[np.ndarray, "3"]) -> ActionStatistics:
        """The same with roll, pitch and yaw from -reach to reach."""
        q01, q99 = self.q01.copy(), self.q99.copy()
        q01[3:6], q99[3:6] = -reach, reach
        return replace(self, q01=q01, q99=q99, stored=None)

    def to_json(self) -> dict[str, Any]:
        """One entry of `statistics` in the published processor_config.json; floats are exact."""
        if self.stored is not None:
            return dict(self.stored)
        return {
            "action": {name: getattr(self, name).tolist() for name in ("q01", "q99", *_SUMMARY, "mask")},
            "num_trajectories": self.num_trajectories,
            "num_transitions": self.num_transitions,
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ActionStatistics:
        """The inverse of `to_json`. Without a mask every dimension is normalized, as published decoding does.

        Raises CheckpointError where q01, q99 or mask are missing or unusable.
        """
        try:
            action = entry["action"]
            return cls(
                q01=np.asarray(action["q01"], np.float64),
                q99=np.asarray(action["q99"], np.float64),
                mask=np.asarray(action.get("mask", [True] * 7), bool),
                **{name: _seven_numbers(action.get(name)) for name in _SUMMARY},
                num_trajectories=entry.get("num_trajectories", 0),
                num_transitions=entry.get("num_transitions", 0),
                stored=entry,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"The action statistics cannot be read ({error!r}); download them again."
            ) from error


def between_quantiles(
    values: Float[np.ndarray, "*n S"], q01: Float[np.ndarray, " S"], q99: Float[np.ndarray, " S"]
) -> Float[np.ndarray, "*n S"]:
    """q01 to q99 -> -1 to 1, and what lies beyond clipped to that; 0 in dimensions that do not move."""
    span = q99 - q01
    moves = span >= MIN_SPAN
    scaled = np.clip(2 * (values - q01) / np.where(moves, span, 1) - 1, -1, 1)
    return np.where(moves, scaled, 0.0)


def _seven_numbers(stored: object) -> Float[np.ndarray, "7"]:
    """Numbers as a file holds them; NaN where it holds none."""
    try:
        numbers = np.asarray(stored, np.float64)
    except (TypeError, ValueError):
        return np.full(7, np.nan)
    return numbers if numbers.shape == (7,) else np.full(7, np.nan)
