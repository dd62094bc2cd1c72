"""Chunks for clients that insist on more steps than the policy predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from spatialvla.errors import InputError

Kind = Literal["none", "hold"]
NO_TOKEN = -1


@dataclass(frozen=True)
class Padding:
    """kind: "none" sends chunks as they are; "hold" appends steps that stand still with the gripper as it was.

    A policy cannot be rolled on without seeing what its actions did, so there is no padding that goes on moving.
    steps: a chunk's least length.
    """

    kind: Kind = "none"
    steps: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("none", "hold") or self.steps < 0:
            raise InputError(
                f"Padding is none or hold, to 0 or more steps, got {self.kind!r} to {self.steps}."
            )

    def length(self, steps: int) -> int:
        """Steps of a chunk that has `steps` without padding."""
        return steps if self.kind == "none" else max(steps, self.steps)

    def __call__(self, actions: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(k, 7) actions and (k, 3) tokens, padded; a step of padding has no tokens, -1."""
        missing = self.length(len(actions)) - len(actions)
        if not missing:
            return actions, tokens
        still = np.zeros((missing, 7))
        still[:, 6] = actions[-1, 6]
        return np.concatenate([actions, still]), np.concatenate([tokens, np.full((missing, 3), NO_TOKEN)])


UNPADDED = Padding()
