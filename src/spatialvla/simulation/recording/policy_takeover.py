"""A policy that drives for stretches while the expert goes on labeling (DAgger, Ross et al. 2011)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spatialvla.policy import Policy
from spatialvla.simulation.recording.disturbance import STEPS_A_SECOND
from spatialvla.types import Observation

LAST_STEP = 120  # from here on the expert drives, so that the episode ends in success
_FIRST_PAUSE = 40  # at most so many steps of the expert before the first stretch, and between stretches:
_PAUSE = (8, 40)
_STRETCH = (16, 80)  # steps


class Takeover:
    """Chooses who drives: the policy, in its own open-loop chunks, or the expert.

    The policy's mistakes become states of the demonstration, and what the expert does there is what is
    learned.
    fps: control steps a second; stretches last as long at any.
    """

    def __init__(self, policy: Policy, rng: np.random.Generator, fps: float = STEPS_A_SECOND) -> None:
        self._policy = policy
        self._rng = rng
        self._pace = STEPS_A_SECOND / fps
        self._last = round(LAST_STEP / self._pace)
        self._start = self._steps(0, _FIRST_PAUSE + 1)
        self._end = self._start + self._steps(*_STRETCH)
        self._step = 0
        self._queue: list[np.ndarray] = []

    def __call__(self, observed: Callable[[], Observation]) -> np.ndarray | None:
        """(7,) the policy's action for this step, or None while the expert drives. Call it once a step.

        observed: draws what the policy sees; called where it decides anew.
        """
        step, self._step = self._step, self._step + 1
        if step >= self._end:
            self._start = step + self._steps(*_PAUSE)
            self._end = self._start + self._steps(*_STRETCH)
            self._queue = []
        if step < self._start or step >= self._last:
            return None
        if not self._queue:
            self._queue = list(self._policy.predict([observed()])[0].actions)
        return self._queue.pop(0)

    def _steps(self, shortest: int, too_long: int) -> int:
        """A length in the robot's own steps."""
        return round(int(self._rng.integers(shortest, too_long)) / self._pace)
