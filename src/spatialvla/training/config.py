"""What a training run is made of: one frozen configuration, of the groups in `options`, and its datasets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from spatialvla.actions.bins import Bins
from spatialvla.common.checks import check_counts, check_fractions, check_not_negative, check_positive
from spatialvla.data.augmentation import Augmentation
from spatialvla.errors import InputError
from spatialvla.model.lora_options import LoraOptions
from spatialvla.training.guidance_config import Guidance
from spatialvla.training.options import (
    AdaptationOptions,
    DataOptions,
    LoggingOptions,
    NetworkOptions,
    ObjectiveOptions,
    OptimizationOptions,
    StartOptions,
)

PART = 32
"""Samples that a process goes through at a time unless told otherwise, as each GPU of the published scripts."""


@dataclass(frozen=True)
class DatasetConfig:
    """One dataset to train on."""

    path: str
    """Folder, URL or Hub id of an RLDS, LeRobot or RH20T dataset."""

    weight: float = 1.0
    """How often each of its samples is drawn an epoch."""

    mapping: Path | None = None
    """YAML file that says what a LeRobot dataset's features mean."""

    camera: str | None = None
    """RGB feature of a LeRobot dataset to look through, not the mapping's; a+b shows each episode by a, and by b."""

    spec: str | None = None
    """Name or YAML file of an RLDS dataset's spec, where its own name does not tell."""

    key: str | None = None
    """Name of its statistics in the model; None takes the dataset's own."""

    copy: Literal["auto", "original", "repaired"] = "auto"
    """Whether RLDS files have the known faults of the published ones; auto finds out, where they tell."""

    @property
    def first_cameras(self) -> tuple[str, ...]:
        """The features in `camera`; none where it names none."""
        return () if self.camera is None else tuple(name.strip() for name in self.camera.split("+"))

    def __post_init__(self) -> None:
        named = self.first_cameras
        if not all(named) or len(set(named)) < len(named):
            raise InputError(f"Cameras joined by + have to be names, each once, not '{self.camera}'.")
        if not self.weight > 0:
            raise InputError(
                f"The weight of {self.path} must be positive, not {self.weight}; else leave the dataset out."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(
    DataOptions,
    StartOptions,
    NetworkOptions,
    AdaptationOptions,
    ObjectiveOptions,
    OptimizationOptions,
    LoggingOptions,
):
    """One training run: the options of all groups, what it trains on and where it writes.

    Raises InputError for numbers out of range and for options that contradict each other.
    """

    datasets: tuple[DatasetConfig, ...] = ()
    """What to train on. A recipe has none; a run needs one at least."""

    out: Path = Path("runs/train")
    """Folder of the run: its checkpoints, metrics and, as `model`, the policy."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    bins: Bins = field(default_factory=Bins)
    """Of the grid of a new network."""

    lora: LoraOptions = field(default_factory=LoraOptions)
    guidance: Guidance = field(default_factory=Guidance)

    rate_factors: Mapping[str, float] = field(default_factory=dict)
    """Factors of the learning rate, by the beginning of parameters' names; the longest that matches holds."""

    def __post_init__(self) -> None:
        check_counts(
            steps=1 if self.steps is None else self.steps,
            batch_size=self.batch_size,
            accumulation=1 if self.accumulation is None else self.accumulation,
            chunk_size=1 if self.chunk_size is None else self.chunk_size,
            eval_frames=self.eval_frames,
            eval_every=self.eval_every,
            save_every=self.save_every,
            log_every=self.log_every,
            keep=self.keep,
            rollout_every=self.rollout_every,
            rollout_episodes=self.rollout_episodes,
        )
        check_fractions(
            warmup=self.warmup,
            final_rate=self.final_rate,
            ema_decay=self.ema_decay,
            held_out=self.held_out,
            committed_share=self.committed_share,
            committed_jitter=self.committed_jitter,
            camera_dropout=self.camera_dropout,
            state_dropout=self.state_dropout,
        )
        check_not_negative(
            workers=self.workers,
            committed_steps=self.committed_steps,
            min_sigma=self.min_sigma,
            weight_decay=self.weight_decay,
            add_state=self.add_state,
            seed=self.seed,
        )
        if self.steps is None and self.epochs is None and self.minutes is None:
            raise InputError("The run has no end; give steps, epochs or minutes.")
        check_positive(epochs=self.epochs, minutes=self.minutes)
        check_positive(learning_rate=self.learning_rate, clip_norm=self.clip_norm)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas must lie in [0, 1), not {self.betas}.")
        if self.guidance.depth_mix > 0 and not self.in_memory:
            raise InputError("depth_mix needs the depth of every frame; set in_memory=True, or leave it out.")
        if self.gaussians is not None and self.grid == "uniform":
            raise InputError("A uniform grid has no Gaussians; leave out grid or gaussians.")
        keeps_grid = self.policy is not None and self.mode != "adapt" and not self.new_grid
        if keeps_grid and (self.gaussians is not None or self.grid == "uniform"):
            raise InputError(
                "The policy keeps its own grid unless new_grid=True; add that, or leave grid and gaussians out."
            )
        if self.freeze_vision_tower and self.guidance.vision_steps > 0:
            raise InputError(
                "A frozen vision tower learns nothing in guidance.vision_steps; leave out one of the two."
            )
        if self.mode != "full" and self.policy is None:
            raise InputError(f"mode {self.mode!r} goes on from a checkpoint; give `policy`.")
        if self.new_grid and self.policy is None:
            raise InputError("A new network has a new grid anyway; leave out new_grid, or give `policy`.")
        if self.policy is None and (self.add_camera or self.add_state):
            raise InputError(
                "add_camera and add_state are for a policy to go on from; give a new network cameras and state."
            )
        if self.policy is not None and (self.cameras or self.state):
            raise InputError(
                "cameras and state are for a new network; a policy to go on from is given others by add_camera and "
                "add_state."
            )

    def parts(self, processes: int) -> int:
        """Parts in which each of so many processes goes through its share of a batch.

        Raises InputError where a batch cannot be split so.
        """
        if self.accumulation is not None:
            parts = self.accumulation
        else:
            share = self.batch_size // processes
            fewest = max(1, math.ceil(share / PART))
            parts = next((count for count in range(fewest, share + 1) if share % count == 0), 1)
            parts = 1 if self.batch_size % processes else parts
        if self.batch_size % (processes * parts):
            raise InputError(
                f"A batch of {self.batch_size} cannot be split into {processes * parts} equal parts (processes "
                "times accumulation); choose a multiple."
            )
        return parts

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the record kept with the run."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
