"""How sure a policy was through an episode: entropy and spread of each of its decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spatialvla.types import Uncertainty

_DIGITS = 4


@dataclass(frozen=True)
class EpisodeUncertainty:
    """One number of each kind for each decision: the mean of `Uncertainty` over the steps of its chunk.

    steps: control steps that were over when the policy decided. translation, rotation, gripper: entropy in bits.
    spread_mm: millimeters; empty where the units of the actions are not known.
    Raises ValueError for series of different lengths, steps that do not rise, and numbers below 0.
    """

    steps: tuple[int, ...]
    translation: tuple[float, ...]
    rotation: tuple[float, ...]
    gripper: tuple[float, ...]
    spread_mm: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        series = {"translation": self.translation, "rotation": self.rotation, "gripper": self.gripper}
        if self.spread_mm:
            series["spread_mm"] = self.spread_mm
        for name, values in series.items():
            if len(values) != len(self.steps):
                raise ValueError(f"{len(self.steps)} decisions have {len(values)} numbers of {name}")
            if min(values, default=0) < 0:
                raise ValueError(f"{name} of a decision is {min(values)}")
        if (self.steps and self.steps[0] < 0) or any(np.diff(self.steps) <= 0):
            raise ValueError("the steps of an episode's decisions do not rise")

    @property
    def bits(self) -> tuple[float, ...]:
        """Entropy of all three parts together, of each decision."""
        return tuple(map(sum, zip(self.translation, self.rotation, self.gripper, strict=True)))

    @classmethod
    def of(cls, decisions: Sequence[tuple[int, Uncertainty]]) -> EpisodeUncertainty:
        """decisions: the step of each, and how sure the policy was of its chunk."""
        entropy = np.array([sure.entropy.mean(axis=0) for _, sure in decisions]).reshape(-1, 3)
        spread = np.array([sure.spread_mm.mean() for _, sure in decisions])
        translation, rotation, gripper = map(_rounded, entropy.T)
        return cls(
            tuple(step for step, _ in decisions),
            translation,
            rotation,
            gripper,
            _rounded(spread) if np.isfinite(spread).all() else (),
        )


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    # Adding 0.0 makes a plain 0 of -0.0.
    return tuple((values.round(_DIGITS) + 0.0).tolist())
