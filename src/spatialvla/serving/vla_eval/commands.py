"""A policy's actions -> commands of vla-eval's simulators, as in SpatialVLA's published evaluation."""

from __future__ import annotations

from collections import deque

import numpy as np

from spatialvla.serving.guard.limits import require_sendable
from spatialvla.serving.vla_eval.conventions import HarnessBenchmark

STICKY_STEPS = 15
"""How long vla-eval's SimplerEnv holds a gripper command; the published evaluation held it for 10 steps."""

_CHANGE = 0.5  # of the gripper's opening, that counts as a command


class Gripper:
    """One episode's gripper: how open the policy wants it (1 = open) -> the number its benchmark takes.

    minus_one_opens: LIBERO, where at least 0 closes. one_opens: the WidowX, where more than 0.5 opens.
    sticky: the Google Robot, whose gripper takes changes and holds one for `STICKY_STEPS`. The harness turns
    a value v into the change 1 - 2 v, so a half changes nothing; what counts is how much the policy's wish
    has changed since the last command, as published.
    """

    def __init__(self, benchmark: HarnessBenchmark) -> None:
        self._kind = benchmark.gripper
        self._last: float | None = None
        self._holding = 0

    def __call__(self, opening: float) -> float:
        match self._kind:
            case "minus_one_opens":
                return 1 - 2 * opening
            case "one_opens":
                return opening
            case "sticky":
                return (1 - self._change(opening)) / 2

    def _change(self, opening: float) -> float:
        if self._last is None:
            self._last = opening
        if self._holding:
            self._holding -= 1
            return 0.0  # the harness repeats the command by itself
        change = self._last - opening
        if abs(change) > _CHANGE:
            self._last = opening
            self._holding = STICKY_STEPS - 1
        return change


class Commands:
    """One episode's actions (7,) -> what the benchmark's `step` takes, a queue of them between inferences."""

    def __init__(self, benchmark: HarnessBenchmark) -> None:
        self._benchmark = benchmark
        self._gripper = Gripper(benchmark)
        self._queue: deque[np.ndarray] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def extend(self, actions: np.ndarray) -> None:
        """Actions (k, 7) to execute next."""
        self._queue.extend(actions)

    def next(self) -> np.ndarray:
        """(7,) float32: the next command. Raises UnsafeAction where it is not finite."""
        action = self._queue.popleft()
        turn = action[3:6]
        if self._benchmark.rotation == "rotation_vector":
            turn = rotation_vector(turn)
        command = np.array([*action[:3], *turn, self._gripper(float(action[6]))])
        return require_sendable(command).astype(np.float32)


def rotation_vector(angles: np.ndarray) -> np.ndarray:
    """Roll, pitch, yaw (3,) of Rz(yaw) Ry(pitch) Rx(roll) -> axis times angle (3,), both in radians."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(angles / 2), np.cos(angles / 2)
    vector = np.array([sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy])
    length, scalar = np.linalg.norm(vector), cr * cp * cy + sr * sp * sy
    if scalar < 0:  # the same rotation, the shorter way round
        vector, scalar = -vector, -scalar
    return vector * (2 * np.arctan2(length, scalar) / length) if length > 0 else np.zeros(3)
