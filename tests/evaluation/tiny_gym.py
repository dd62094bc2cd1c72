"""A small Gymnasium environment, registered on import: a hand over a table, and a place to bring it to."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

SIDE = 32
STEP = 0.02
"""Meters of 1 in its actions."""
NEAR = 0.02


class TinyReach(gymnasium.Env):
    """Δx Δy Δz and a gripper, -1 open; the hand (red) has to come to the target (green), both drawn from above.

    falls_at: ends the episode as a failure once x is beyond it. The observation's picture has its rows turned around.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode: str | None = None, falls_at: float = 9.0) -> None:
        self.render_mode, self.falls_at = render_mode, falls_at
        self.action_space = Box(-1, 1, (4,), np.float32)
        pixels, place = Box(0, 255, (SIDE, SIDE, 3), np.uint8), Box(-1, 1, (3,), np.float64)
        self.observation_space = Dict(
            {"pixels": pixels, "agent": Dict({"hand": place, "gripper": Box(-1, 1, (1,))}), "target": place}
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hand, self.gripper, self.commands = np.zeros(3), 0.0, []
        self.target = self.np_random.uniform(-0.2, 0.2, 3)
        return self._seen(), self._info()

    def step(self, action):
        assert self.action_space.contains(action), "an action out of bounds, or of another dtype"
        self.commands.append(action)
        self.hand = self.hand + STEP * action[:3]
        self.gripper = float(action[3])
        return self._seen(), -self._distance(), bool(self.hand[0] > self.falls_at), False, self._info()

    def render(self):
        picture = np.full((SIDE, SIDE, 3), 200, np.uint8)
        for (x, y, _), color in ((self.target, (0, 160, 0)), (self.hand, (200, 0, 0))):
            row, column = (np.clip((-y + 0.3, x + 0.3), 0, 0.59) / 0.6 * SIDE).astype(int)
            picture[row : row + 3, column : column + 3] = color
        return picture

    def _seen(self):
        agent = {"hand": self.hand.copy(), "gripper": np.array([self.gripper])}
        return {"pixels": self.render()[::-1], "agent": agent, "target": self.target.copy()}

    def _info(self):
        return {
            "is_success": np.bool_(self._distance() < NEAR),
            "language": "reach the green square",
            "depth": np.full((SIDE, SIDE), 1500, np.uint16),
            "pose": np.diag([1.0, -1.0, -1.0, 1.0]) + 0.1 * np.eye(4, k=3),
        }

    def _distance(self):
        return float(np.linalg.norm(self.hand - self.target))


gymnasium.register("TinyReach-v0", entry_point=TinyReach, max_episode_steps=7)
