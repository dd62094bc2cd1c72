"""What the training of a depth estimator is made of: one frozen configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from spatialvla.common.checks import check_counts, check_positive
from spatialvla.data.augmentation import Augmentation
from spatialvla.errors import InputError


def _colors_only() -> Augmentation:
    """A crop would change the scale that one image leaves open."""
    return Augmentation(1.0, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02)


@dataclass(frozen=True)
class DepthConfig:
    """One training of a depth estimator. It ends after steps or minutes, whichever comes first."""

    dataset: tuple[str, ...]
    """Datasets whose cameras have depth: folders, URLs or Hub ids."""

    out: Path
    """Folder for model.safetensors, to pass to `train --depth-weights`."""

    mapping: Path | None = None
    """YAML file that says what the features of LeRobot datasets mean."""

    camera: tuple[str, ...] = ()
    """RGB features of LeRobot datasets, each with depth; the mapping's, or the only one, unless given."""

    spec: str | None = None
    """Spec of RLDS datasets, by name or YAML file, which names their depth; shipped ones have none."""

    cache: Path | None = None
    """Folder for decoded frames; None takes the user's cache folder."""

    depth_weights: Path | None = None
    """Depth estimator to go on from: by `train-depth`, or a policy's; None starts from random weights."""

    preset: str = "nano"
    """Whose depth estimator."""

    steps: int = 100_000
    """End after so many steps."""

    minutes: float | None = 10.0
    """End after so much time."""

    batch_size: int = 16
    """Frames a step."""

    learning_rate: float = 1e-3
    """Peak learning rate."""

    warmup: float = 0.05
    """Fraction of the run in which the rate rises."""

    weight_decay: float = 0.01
    """Of all weights."""

    clip_norm: float = 1.0
    """Largest norm of the gradients."""

    held_out: float = 0.05
    """Fraction of the episodes to measure on."""

    eval_frames: int = 256
    """Frames of them that are looked at."""

    log_every: int = 100
    """Steps between lines of metrics.jsonl."""

    seed: int = 0
    """Of weights, shuffling and augmentation."""

    augmentation: Augmentation = field(default_factory=_colors_only)

    def __post_init__(self) -> None:
        if not self.dataset:
            raise InputError("There is nothing to train on; give a dataset with depth.")
        if self.augmentation.min_crop_area < 1:
            raise InputError("Depth is trained on whole images; set augmentation.min_crop_area to 1.")
        check_counts(steps=self.steps, batch_size=self.batch_size, log_every=self.log_every)
        check_positive(minutes=self.minutes, learning_rate=self.learning_rate, clip_norm=self.clip_norm)
