"""What a policy looks at: known without its weights, so that clients are held against it before these are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from spatialvla.model.config import SpatialVLAConfig
    from spatialvla.processor import Processor


@dataclass(frozen=True)
class PolicyInputs:
    """What a policy looks at.

    cameras: their names, that of `Observation.image` first. state_names: what the numbers of the arm's state are;
    empty where it is told none. needs_extrinsics: whether it has to know where its cameras stand.
    """

    cameras: tuple[str, ...]
    state_names: tuple[str, ...] = ()
    needs_extrinsics: bool = False

    @classmethod
    def stored(cls, config: SpatialVLAConfig, processor: Processor, dataset: str | None) -> Self:
        """By what a checkpoint says of itself. dataset: whose units the policy acts in."""
        return cls(config.cameras, processor.states_of(dataset), config.needs_extrinsics)
