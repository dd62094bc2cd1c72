"""Disturbances for recording demonstrations that show how to recover (DART, Laskey et al. 2017)."""

from __future__ import annotations

import numpy as np

_TRANSLATION, _ROTATION = 0.35, 0.08  # standard deviation of the wandering noise, units of the action
_MEMORY = 0.85  # correlation of the noise from one step to the next
_CALM = 0.25  # share of episodes without any disturbance
_DISPLACED_START = 0.5  # share of the others that start with the arm elsewhere
_PUSH, _SLIP, _BURST = 0.02, 0.012, 0.04  # chance a step of starting a push, a gripper mistake, wandering
STEPS_A_SECOND = 20  # that these numbers, and lengths in steps, are meant for


class Disturbance:
    """Changes the expert's actions on their way to the robot, each episode differently.

    Wandering noise comes in bursts; now and then the arm is pushed one way for a few steps, or the gripper
    does the opposite of what it was told. What is learned from stays the expert's own action.
    size: what 1 in the numbers above is in the robot's actions, of translation and of rotation.
    fps: control steps a second; disturbances last as long at any.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: tuple[float, float] = (1.0, 1.0),
        fps: float = STEPS_A_SECOND,
    ) -> None:
        self._rng = rng
        self._size = np.repeat(size, 3)
        self._pace = STEPS_A_SECOND / fps
        self._memory = _MEMORY**self._pace
        self._calm = rng.random() < _CALM
        self._scale = rng.uniform(0.3, 1.2)
        self._wander = np.zeros(6)
        self._push = np.zeros(6)
        self._left = {"burst": 0, "push": 0, "slip": 0}

    def displacement(self) -> np.ndarray:
        """(N, 7) actions that move the arm somewhere else before the episode starts; often none."""
        if self._calm or self._rng.random() > _DISPLACED_START:
            return np.zeros((0, 7))
        direction = self._rng.normal(size=3)
        direction[2] = 0.6 * direction[2]
        turn = self._rng.normal(scale=0.06, size=3)
        motion = np.r_[direction / np.linalg.norm(direction) * self._rng.uniform(0.4, 1.0), turn]
        return np.tile([*motion * self._size, 1.0], (self._steps(4, 12), 1))

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """(7,) what the robot does when it is told to do `action` (7,)."""
        if self._calm:
            return action
        rng = self._rng
        self._start("burst", _BURST, 8, 30)
        self._start("slip", _SLIP, 2, 7)
        if self._start("push", _PUSH, 3, 9):
            way = rng.normal(size=3)
            self._push[:3] = way / np.linalg.norm(way) * rng.uniform(0.5, 1.0)
            self._push[3:] = rng.normal(scale=0.1, size=3)
        spread = self._scale * np.repeat([_TRANSLATION, _ROTATION], 3)
        fresh = rng.normal(size=6) * spread * np.sqrt(1 - self._memory**2)
        self._wander = self._memory * self._wander + fresh
        done = action.astype(np.float64)
        if self._left["burst"]:
            done[:6] += self._wander * self._size
        if self._left["push"]:
            done[:6] += self._push * self._size
        if self._left["slip"]:
            done[6] = 1 - done[6]
        self._left = {name: max(0, steps - 1) for name, steps in self._left.items()}
        return done

    def _start(self, name: str, chance: float, shortest: int, longest: int) -> bool:
        starts = not self._left[name] and self._rng.random() < chance * self._pace
        if starts:
            self._left[name] = self._steps(shortest, longest)
        return starts

    def _steps(self, shortest: int, longest: int) -> int:
        """A length between these, which are in steps at 20 a second, in the robot's own steps."""
        return max(1, round(int(self._rng.integers(shortest, longest + 1)) / self._pace))
