"""What a recording is told of a robot and its policy before the first picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from spatialvla.actions.motion_path import why_unplaced
from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera
from spatialvla.policy import Policy
from spatialvla.readout import CellMiddles

if TYPE_CHECKING:
    import torch


_UNLIKELY = 1e-3


@dataclass(frozen=True)
class Rig:
    """Cameras and actions of one robot.

    cameras: the policy's, by name in its order, the first one first; each with the K that it takes for pictures that
    come without one, None where there is no such.
    units: of the actions, and steps a second. cells: the middle of each cell of the grid's translations, in the
    units of the actions; None without a grid.
    """

    cameras: Mapping[str, Camera | None] = field(default_factory=dict)
    units: ActionUnits = UNKNOWN
    cells: Float[np.ndarray, "cells 3"] | None = None

    @classmethod
    def of(cls, policy: Policy, units: ActionUnits) -> Rig:
        """A policy's cameras. units: of its actions, as far as it, or what it drives, says them."""
        cells = CellMiddles.of(policy.processor, policy.dataset).translation
        return cls({name: _camera(policy, name) for name in policy.camera_names}, units, cells)

    @property
    def first_camera(self) -> str:
        """The one that an observation's `image` is of."""
        return next(iter(self.cameras))

    def possible_places(
        self, chances: Float[np.ndarray, " cells"], gripper: Float[np.ndarray, "3"] | None
    ) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
        """Where the likely ones of all translations lead the gripper, in meters in the robot's frame, and how likely.

        There are none where that cannot be said. gripper: where it is.
        """
        if self.cells is None or gripper is None or why_unplaced(self.units, gripper):
            return np.zeros((0, 3)), np.zeros(0)
        likely = chances > _UNLIKELY
        return gripper + self.cells[likely] * (self.units.meters or 1.0), chances[likely]

    def estimates(self, depth: Mapping[int, torch.Tensor]) -> dict[str, np.ndarray]:
        """Depth maps by the camera's name. depth: by its number, as executors keep them, (S, S) meters each."""
        names = list(self.cameras)
        return {names[number]: one.float().cpu().numpy() for number, one in depth.items()}


def _camera(policy: Policy, name: str) -> Camera | None:
    try:
        return policy.processor.camera(policy.dataset, name)
    except InputError:
        return None
