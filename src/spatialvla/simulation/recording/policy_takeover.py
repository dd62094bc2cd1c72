"""A policy that drives for stretches while the expert goes on labeling (DAgger, Ross et al. 2011)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from spatialvla.policy import Policy
from spatialvla.simulation.recording.disturbance import STEPS_A_SECOND
from spatialvla.types import Observation

_LONGER = 1.6  # times a benchmark's time limit, that an episode with a policy at the wheel may take
SHARE = 0.5
"""Of that time; from then on the expert drives, so that the episode ends in success."""
_FROM_THE_START = 0.8  # of the episodes: the policy's own way leads into states that no other way does
_FIRST_PAUSE = 40  # at most so many steps of the expert before the first stretch of the others
_PAUSE = (8, 24)  # steps of the expert between stretches
_STRETCH = (40, 120)  # steps
_STUCK_FOR, _STUCK_WITHIN = 20, 0.025
"""Steps and meters: a hand that stayed so near for so long is stuck. No expert's hand rests half as long."""


def longest_episode(time_limit: int, policy: Policy | None) -> int:
    """Steps that an episode may take where the benchmark allows `time_limit`, with a policy at the wheel or without.

    In the benchmark's own time, episodes in which the policy was stuck for long, which teach most, would fail and be
    thrown away.
    """
    return round(time_limit * (_LONGER if policy else 1))


class Takeover:
    """Chooses who drives: the policy, in its own open-loop chunks, or the expert.

    The policy's mistakes become states of the demonstration, and what the expert does there is what is
    learned. Where it is stuck it hands the wheel back: more of the same teaches nothing.
    longest: steps that the episode may take. fps: control steps a second; stretches last as long at any.
    """

    def __init__(
        self, policy: Policy, rng: np.random.Generator, longest: int, fps: float = STEPS_A_SECOND
    ) -> None:
        self._policy = policy
        self._rng = rng
        self._pace = STEPS_A_SECOND / fps
        self._last = round(SHARE * longest)
        self._start = 0 if rng.random() < _FROM_THE_START else self._steps(0, _FIRST_PAUSE + 1)
        self._end = self._start + self._steps(*_STRETCH)
        self._step = 0
        self._queue: list[np.ndarray] = []
        self._stuck_for = self._scaled(_STUCK_FOR)
        self._been: deque[np.ndarray] = deque(maxlen=self._stuck_for)

    def __call__(self, observed: Callable[[], Observation], hand: np.ndarray) -> np.ndarray | None:
        """(7,) the policy's action for this step, or None while the expert drives. Call it once a step.

        observed: draws what the policy sees; called where it decides anew. hand: (3,) where it is, in meters.
        """
        step, self._step = self._step, self._step + 1
        if self._is_stuck(hand):
            self._end = step
        if step >= self._end:
            self._start = step + self._steps(*_PAUSE)
            self._end = self._start + self._steps(*_STRETCH)
            self._queue = []
            self._been.clear()
        if step < self._start or step >= self._last:
            return None
        if not self._queue:
            self._queue = list(self._policy.predict([observed()])[0].actions)
        self._been.append(hand)
        return self._queue.pop(0)

    def _is_stuck(self, hand: np.ndarray) -> bool:
        """Whether the policy has driven for a while and the hand is where it was all that time."""
        been = np.array(self._been)
        return len(been) == self._stuck_for and bool(
            np.linalg.norm(been - hand, axis=1).max() < _STUCK_WITHIN
        )

    def _steps(self, shortest: int, too_long: int) -> int:
        """A length in the robot's own steps."""
        return self._scaled(int(self._rng.integers(shortest, too_long)))

    def _scaled(self, steps: int) -> int:
        return round(steps / self._pace)
