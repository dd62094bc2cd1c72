"""What helps a network that starts from random weights: one frozen configuration."""

from __future__ import annotations

from dataclasses import dataclass

from spatialvla.common.checks import check_fractions
from spatialvla.errors import InputError


@dataclass(frozen=True)
class Guidance:
    """Helps a network that starts from random weights and sees few demonstrations; only `train` uses it.

    The features that it names must be columns of every dataset, as those of LeRobot datasets are.
    """

    privileged: tuple[str, ...] = ()
    """Features whose values an auxiliary head regresses from the prompt, such as observation.state[0:3]."""

    privileged_weight: float = 0.0
    """Weight of that regression's loss."""

    soft_targets: float = 0.0
    """How far a token's target spreads to neighboring cells, in normalized actions."""

    foreign_tokens: float = 0.0
    """Fraction of the action tokens to go on from that are another sample's."""

    vision_steps: int = 0
    """Batches of a first stage, in which the image encoder alone learns to regress `privileged` and actions."""

    vision_rate: float = 5e-4
    """Learning rate of this stage."""

    vision_batch_size: int = 32
    """Frames in a batch of this stage."""

    keypoints: tuple[str, ...] = ()
    """Positions in the world, named like privileged features, that this stage learns to look at."""

    depth_mix: float = 0.0
    """Fraction of the samples that see the other depth than --depth says; needs --in-memory."""

    def __post_init__(self) -> None:
        check_fractions(foreign_tokens=self.foreign_tokens, depth_mix=self.depth_mix)
        if self.privileged_weight > 0 and not self.privileged:
            raise InputError("privileged_weight needs the names of the features to regress in `privileged`.")
