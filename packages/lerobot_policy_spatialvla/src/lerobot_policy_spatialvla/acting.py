"""A policy's actions in the numbers that LeRobot's robots take, and back to the steps that are under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lerobot_policy_spatialvla.batch_reader import BatchReader
from lerobot_policy_spatialvla.configuration_spatialvla import SpatialVLAConfig
from lerobot_policy_spatialvla.frames import ACTION
from lerobot_policy_spatialvla.mapping import KeptMapping
from spatialvla.actions.fitting import check_fit
from spatialvla.actions.units import UNKNOWN
from spatialvla.collation import Prepared
from spatialvla.data.motion_units import motion_units
from spatialvla.errors import InputError
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.policy import Policy
from spatialvla.processor import Processor


class Actor:
    """A policy that sees LeRobot's batches and says what LeRobot's robots take."""

    def __init__(
        self, config: SpatialVLAConfig, model: SpatialVLA, processor: Processor, mapping: KeptMapping
    ) -> None:
        """Puts the model in eval mode. Raises InputError where it is not known what its actions mean to the robot."""
        self.policy = Policy(model, processor, dataset=config.dataset, execution=config.execution)
        self.motion = mapping.mapping.motion
        self.reader = BatchReader(config, model.config, processor, mapping.mapping, self.policy.dataset)
        if not config.described and not mapping.lines:
            raise InputError(
                "This checkpoint was not trained in LeRobot, so nobody says what the robot's numbers mean; give "
                "--policy.mapping, a YAML file with the lines 'gripper' and 'units'."
            )
        self._check_units(config, mapping)

    def prepared(self, batch: Mapping[str, Any], committed: np.ndarray | None = None) -> list[Prepared]:
        """One row for each robot. committed: (P, 3) tokens of steps that are under way.

        Raises InputError for what the policy cannot use.
        """
        processor, dataset = self.policy.processor, self.policy.dataset
        return [
            processor.prepare(
                None, one.prompt, dataset, other_views=one.views, state=one.state, committed=committed
            )
            for one in self.reader.to_act(batch)
        ]

    def numbers(self, actions: Sequence[np.ndarray]) -> np.ndarray:
        """B times (T, 7) -> (B, T, N) float32, as the dataset has them."""
        return np.stack([self.motion.stored(chunk) for chunk in actions]).astype(np.float32)

    def committed(self, numbers: np.ndarray, steps: int) -> np.ndarray:
        """Tokens (P, 3) of the first of the `numbers` (…, N) that are left of a chunk; one step stays free.

        Rows of zeros at the end are what LeRobot fills up with.
        """
        told = np.flatnonzero(numbers.any(axis=1))
        count = min(steps, told[-1] + 1 if len(told) else 0, self.policy.processor.action_chunk_size - 1)
        if not count:
            return np.empty((0, 3), np.int64)
        actions = self.motion.actions({ACTION: numbers[:count]})
        return np.asarray(self.policy.processor.encode(actions[None], self.policy.dataset)[0])

    def _check_units(self, config: SpatialVLAConfig, mapping: KeptMapping) -> None:
        policy, lines = self.policy, mapping.mapping
        taken = replace(motion_units(self.motion, lines.units, UNKNOWN, 1.0), control_hz=None)
        check_fit(
            policy.units,
            taken,
            "The robot",
            statistics=policy.processor.dataset_statistics(policy.dataset),
            unknown_units=True,
            advice="correct --policy.mapping, or choose another checkpoint",
        )
        if policy.units.unknown and not config.unknown_units:
            raise InputError(
                f"Nobody says the {', '.join(policy.units.unknown)} of the policy's actions, so the robot may move "
                "otherwise than meant; state them by the line 'units' of --policy.mapping before training, or say "
                "--policy.unknown_units=true."
            )
