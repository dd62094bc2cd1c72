"""A robot of LeRobot's that is told how its hand moves, and whose camera always sees the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from lerobot.robots import Robot, RobotConfig

STATE = tuple(f"s{number}.pos" for number in range(8))
ACTION = tuple(f"{name}.pos" for name in ("x", "y", "z", "rx", "ry", "rz", "gripper"))
PICTURE = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)


@RobotConfig.register_subclass("simulated_arm")
@dataclass
class SimulatedArmConfig(RobotConfig):
    """It has no options."""


class SimulatedArm(Robot):
    """told: all that it was told."""

    config_class = SimulatedArmConfig
    name = "simulated_arm"
    is_connected = is_calibrated = True
    cameras: ClassVar[dict[str, Any]] = {}
    told: ClassVar[list[list[float]]] = []

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(STATE, float), "top": PICTURE.shape}

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(ACTION, float)

    def get_observation(self) -> dict[str, Any]:
        return {**dict.fromkeys(STATE, 0.0), "top": PICTURE}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        self.told.append([float(action[name]) for name in ACTION])
        return action

    def connect(self, calibrate: bool = True) -> None:
        self.told.clear()

    def disconnect(self) -> None: ...

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...
