"""What comes between the expert and the robot while it demonstrates: disturbances, and a policy at the wheel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spatialvla.policy import Policy
from spatialvla.simulation.recording.disturbance import STEPS_A_SECOND, Disturbance
from spatialvla.simulation.recording.policy_takeover import Takeover
from spatialvla.types import Observation


class Interference:
    """Of one episode. What is learned from stays the expert's own action.

    disturbed: by a `Disturbance`, of this size. policy: drives for stretches, see `Takeover`, undisturbed.
    longest: steps that the episode may take. fps: control steps a second.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        disturbed: bool,
        policy: Policy | None,
        longest: int,
        size: tuple[float, float] = (1.0, 1.0),
        fps: float = STEPS_A_SECOND,
    ) -> None:
        self._disturb = Disturbance(rng, size, fps) if disturbed else None
        self._takeover = Takeover(policy, rng, longest, fps) if policy else None

    def displacement(self) -> np.ndarray:
        """(N, 7) actions that move the arm somewhere else before the episode starts; often none."""
        return np.zeros((0, 7)) if self._disturb is None else self._disturb.displacement()

    def __call__(
        self, action: np.ndarray, observed: Callable[[], Observation], hand: np.ndarray
    ) -> tuple[np.ndarray, bool]:
        """(7,) what the robot does when the expert would do `action` (7,), and whether the policy drives.

        observed: draws what the policy sees. hand: (3,) where it is, in meters. Call it once a step.
        """
        done = action if self._disturb is None else self._disturb(action)
        driven = None if self._takeover is None else self._takeover(observed, hand)
        return (done, False) if driven is None else (driven, True)
