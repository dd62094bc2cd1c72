"""What the features mean, by a mapping's YAML file, which a policy keeps beside its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lerobot_policy_spatialvla.frames import ACTION
from spatialvla.common.entries import load_entries
from spatialvla.common.files import replacing
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.errors import InputError
from spatialvla.geometry.robot_calibration import RobotCalibration

MAPPING, CALIBRATION = "mapping.yaml", "calibration.yaml"


@dataclass(frozen=True)
class KeptMapping:
    """A mapping, as it is read and as it was written. calibration: the robot's that it names, if it does."""

    mapping: FeatureMapping = field(default_factory=FeatureMapping)
    lines: dict[str, Any] = field(default_factory=dict)
    calibration: RobotCalibration | None = None

    @classmethod
    def load(cls, path: Path) -> KeptMapping:
        """Raises InputError, naming the file, for what cannot be used."""
        mapping = FeatureMapping.load(path)
        known = mapping.calibration
        return cls(
            mapping, load_entries(path, "mapping"), None if known is None else RobotCalibration.load(known)
        )

    def save(self, folder: Path) -> None:
        """Writes the mapping, and the calibration beside it; nothing where there is none."""
        if not self.lines:
            return
        lines = dict(self.lines)
        if self.calibration is not None:
            lines["calibration"] = CALIBRATION
            self.calibration.save(folder / CALIBRATION)
        with replacing(folder / MAPPING) as partial:
            partial.write_text(yaml.safe_dump(lines, sort_keys=False, allow_unicode=True), encoding="utf-8")


def check_motion(mapping: FeatureMapping) -> None:
    """Raises InputError for a mapping of what LeRobot's loop does not give: it gives chunks of `action` alone, and
    every frame."""
    motion = mapping.motion
    if motion.action.of_poses or motion.features != (ACTION,):
        raise InputError(
            f"LeRobot gives chunks of '{ACTION}' alone, but the mapping makes motions of "
            f"{', '.join(motion.features)}; write the dataset anew in motions by spatialvla data convert, or train "
            "with spatialvla finetune."
        )
    if mapping.drop_no_ops:
        raise InputError(
            "LeRobot draws every frame; leave out the mapping's line 'drop_no_ops', or train with spatialvla finetune."
        )
