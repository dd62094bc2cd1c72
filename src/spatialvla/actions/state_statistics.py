"""Statistics of how a dataset's arm stands, and the q01/q99 normalization they define."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Real

from spatialvla.actions.statistics import between_quantiles
from spatialvla.errors import CheckpointError, InputError


@dataclass(frozen=True, eq=False)
class StateStatistics:
    """q01 and q99 of each of a state's S numbers, in the dataset's units.

    Raises InputError on other shapes, what is not finite, and where q01 exceeds q99.
    """

    q01: Float[np.ndarray, " S"]
    q99: Float[np.ndarray, " S"]

    def __post_init__(self) -> None:
        for name in ("q01", "q99"):
            value = np.array(getattr(self, name), np.float64)
            if value.ndim != 1 or not value.size or not np.isfinite(value).all():
                raise InputError(f"In state statistics {name} must be finite numbers, got {value.tolist()}.")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        if self.q01.shape != self.q99.shape:
            raise InputError(
                f"State statistics have {len(self.q01)} numbers in q01 and {len(self.q99)} in q99; give as many "
                "of each."
            )
        if (self.q01 > self.q99).any():
            raise InputError("In state statistics q01 exceeds q99; the two may be swapped.")

    @property
    def size(self) -> int:
        """S."""
        return len(self.q01)

    @classmethod
    def from_states(cls, states: Real[np.ndarray, "n S"]) -> StateStatistics:
        """Of n states. Raises InputError on an empty array, NaN or infinity."""
        values = np.asarray(states, np.float64)
        if values.ndim != 2 or not values.size or not np.isfinite(values).all():
            raise InputError(f"Statistics need finite states (n, S), got an array of shape {values.shape}.")
        q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
        return cls(q01, q99)

    def normalize(self, state: Real[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
        """In the dataset's units -> float64, q01 to q99 becoming -1 to 1, and what lies beyond clipped to that.

        Raises InputError for another size, NaN or infinity.
        """
        try:
            values = np.asarray(state, np.float64)
        except (TypeError, ValueError):
            raise InputError("A state must be numbers.") from None
        if values.shape != self.q01.shape:
            raise InputError(
                f"This policy's state has {self.size} numbers, got shape {values.shape}; send them as the data has "
                "them."
            )
        if not np.isfinite(values).all():
            raise InputError("The state contains NaN or infinity; leave it out where it is not known.")
        return between_quantiles(values, self.q01, self.q99)

    def to_json(self) -> dict[str, Any]:
        """As published statistics have it under `proprio`; floats are exact."""
        return {"q01": self.q01.tolist(), "q99": self.q99.tolist()}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> StateStatistics:
        """The inverse of `to_json`. Raises CheckpointError where q01 or q99 are missing or unusable."""
        try:
            return cls(np.asarray(entry["q01"], np.float64), np.asarray(entry["q99"], np.float64))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"The state statistics cannot be read ({error!r}); download them again."
            ) from error
