"""LeRobot's batches as episodes of one step, which spatialvla reads as it reads those of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spatialvla.data.lerobot import Feature, StoredEpisode
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.reader import Frames
from spatialvla.errors import InputError

ACTION = "action"
_METERS = {"mm": 1e-3, "m": 1.0}


@dataclass(frozen=True)
class _Picture:
    """Colors (3, H, W), in [0, 1] or uint8."""

    values: torch.Tensor

    def decode(self, steps: Sequence[int] | None = None) -> np.ndarray:
        """(1, H, W, 3) uint8 RGB."""
        values = self.values.detach().cpu()
        if values.is_floating_point():
            values = values.mul(255).round().clamp(0, 255).to(torch.uint8)
        return values.permute(1, 2, 0)[None].numpy()


@dataclass(frozen=True)
class _Depth:
    """Readings (1, H, W), where 1 is so many `meters`. nothing: meters up to which LeRobot says that there is none."""

    values: torch.Tensor
    meters: float
    nothing: float

    def decode(self, steps: Sequence[int] | None = None) -> np.ndarray:
        """(1, H, W) float32 meters, 0 where there is no reading."""
        values = self.values.detach().cpu()
        meters = values.float().mul(self.meters).reshape(1, *values.shape[-2:]).numpy()
        return np.where(meters <= self.nothing, np.float32(0), meters)


def stored_rows(
    batch: Mapping[str, Any], features: Mapping[str, Feature], depth_unit: str
) -> list[StoredEpisode]:
    """Each row of a batch as an episode, with as many steps as it has actions that are no padding, else one.

    features: those of the batch. Pictures and the numbers of observations are of the first step alone.
    Raises InputError where the batch says no tasks.
    """
    tasks = batch.get("task")
    if tasks is None:
        raise InputError("The batch has no 'task'; say what the robot should do.")
    return [
        _row(batch, features, depth_unit, row, task)
        for row, task in enumerate([tasks] if isinstance(tasks, str) else tasks)
    ]


def _row(
    batch: Mapping[str, Any], features: Mapping[str, Feature], depth_unit: str, row: int, task: str
) -> StoredEpisode:
    columns: dict[str, np.ndarray] = {}
    frames: dict[str, Frames] = {}
    steps = 1
    for name, feature in features.items():
        values = batch[name][row]
        if feature.is_rgb:
            frames[name] = _Picture(values)
        elif feature.is_depth:
            frames[name] = _Depth(values, _METERS[depth_unit], _nothing(feature))
        elif name == ACTION and values.ndim > 1:
            padded = batch.get(f"{ACTION}_is_pad")
            columns[name] = values.cpu().numpy() if padded is None else values[~padded[row]].cpu().numpy()
            steps = len(columns[name])
        elif feature.is_number:
            columns[name] = values[None].cpu().numpy()
    return StoredEpisode(row, (task,) * steps, {**columns, "frame_index": np.arange(steps)}, frames)


def _nothing(feature: Feature) -> float:
    """LeRobot decodes the code of no reading in a depth video to the nearest distance, and may round that."""
    return 1.001 * DepthQuantization.from_info(feature.info).depth_min if feature.is_video else 0.0
