"""What a training run is made of: one frozen configuration, and recipes: functions that return a full one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from spatialvla.actions.grids import Bins
from spatialvla.data.augmentation import Augmentation
from spatialvla.errors import InputError
from spatialvla.model.presets import NANO_BINS


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Fractions and intervals count from 0 to 1 and in steps unless a unit is named.

    dataset: folder of a LeRobot dataset. output: folder of the run, its checkpoints, metrics and final model.
    camera: the RGB feature to look through; None takes the only one. cache: folder of decoded frames and
    depth; None keeps them inside the dataset.
    dataset_key: the name of the dataset's statistics in the model; None takes the folder's name.
    preset: size of the network. initial: folder or Hub id to start from instead of random weights.
    instructions: JSON list of texts the tokenizer is made from, beside the dataset's own instructions.
    depth_weights: folder of a trained ZoeDepth, loaded and frozen. bins: of the grid fitted to the dataset;
        min_sigma: floor of its Gaussians' deviations. (An `initial` checkpoint brings tokenizer and grid.)
    depth: what Ego3D sees, the frozen estimator's depth ("estimate") or the dataset's ("sensor");
    depth_mix: share of the samples that see the other of the two, drawn anew each time.
    steps, minutes: the run ends after so many steps, or so much time where `minutes` is given, whichever
        comes first, and the learning rate follows whichever is further along.
    learning_rate: of every parameter, times the factor of the longest matching name in `rate_factors`.
    warmup: fraction of the run; schedule: the decay after it, down to `final_rate` of the peak.
    ema_decay: of an average of the weights that is evaluated and exported; 0 keeps none.
    precision: "bf16" autocast over float32 weights, "fp32", or "auto": bf16 where the hardware multiplies it.
    mask: "prefix" lets the prompt see itself both ways, "causal" does not.
    privileged: features whose values an auxiliary head regresses from the prompt, with `privileged_weight`;
        see `PrivilegedTargets`.
    soft_targets: how far a token's target spreads to neighbouring cells, in normalised actions; 0 is off.
    foreign_tokens: share of the action tokens to go on from that are another sample's, see `with_foreign_tokens`.
    vision_steps: batches of a first stage in which the image encoder alone learns to regress `privileged` and the
        actions, at `vision_rate`; see `pretrain_vision`. vision_batch_size: frames of each.
    keypoints: positions in the world, named like `privileged`, that this stage learns to look at.
    held_out: fraction of the episodes kept for validation; eval_frames of them are evaluated.
    """

    dataset: Path
    output: Path
    camera: str | None = None
    cache: Path | None = None
    dataset_key: str | None = None

    preset: str = "nano"
    initial: str | None = None
    instructions: Path | None = None
    depth_weights: Path | None = None
    bins: Bins = field(default_factory=Bins)
    min_sigma: float = 0.0
    freeze_text_embeddings: bool = True

    depth: Literal["estimate", "sensor"] = "estimate"
    depth_mix: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    privileged: tuple[str, ...] = ()
    privileged_weight: float = 0.0
    soft_targets: float = 0.0
    foreign_tokens: float = 0.0
    vision_steps: int = 0
    vision_rate: float = 5e-4
    vision_batch_size: int = 32
    keypoints: tuple[str, ...] = ()

    steps: int = 10_000
    minutes: float | None = None
    batch_size: int = 32
    learning_rate: float = 2e-5
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    warmup: float = 0.005
    schedule: Literal["cosine", "linear"] = "linear"
    final_rate: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    mask: Literal["prefix", "causal"] = "prefix"
    seed: int = 0

    held_out: float = 0.05
    eval_frames: int = 256
    eval_every: int = 500
    save_every: int = 500
    log_every: int = 20
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "save_every", "log_every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("warmup", "final_rate", "depth_mix", "ema_decay", "held_out", "foreign_tokens"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a fraction in [0, 1], not {getattr(self, name)}.")
        if self.minutes is not None and self.minutes <= 0:
            raise InputError(f"minutes must be positive, not {self.minutes}.")
        if self.privileged_weight > 0 and not self.privileged:
            raise InputError("privileged_weight needs the names of the features to regress in `privileged`.")

    @property
    def key(self) -> str:
        """The name of the dataset's statistics."""
        return self.dataset_key or Path(self.dataset).resolve().name

    def autocast_dtype(self, device: torch.device) -> torch.dtype | None:
        """What matrix products are computed in; None is float32."""
        if self.precision == "auto":
            return torch.bfloat16 if multiplies_bfloat16(device) else None
        return torch.bfloat16 if self.precision == "bf16" else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the record kept with the run."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 here. A CPU without such instructions emulates it, 4 times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


INSTRUCTIONS = Path(__file__).parent.parent / "assets" / "libero_instructions.json"
"""What LIBERO's tasks ask for (MIT), so that the small tokenizer knows more words than one dataset has."""


def nano(dataset: str | Path, output: str | Path, **changes: Any) -> TrainConfig:
    """The shipped small model: everything but depth from random weights, on 2 CPU cores in an hour and a half."""
    recipe: dict[str, Any] = {
        "preset": "nano",
        "bins": NANO_BINS,
        # As published: without a floor the cells of small motions, which grasping needs, are the widest.
        "min_sigma": 0.5,
        "freeze_text_embeddings": False,
        # An initial checkpoint can see already.
        "vision_steps": 0 if changes.get("initial") else 5_000,
        "minutes": 60.0,
        "steps": 100_000,
        "batch_size": 16,
        "learning_rate": 6e-4,
        # At the full rate a tower trained from scratch collapses.
        "rate_factors": {"model.vision_tower": 0.5},
        "warmup": 0.02,
        "schedule": "cosine",
        "final_rate": 0.01,
        "weight_decay": 0.05,
        "betas": (0.9, 0.95),
        "ema_decay": 0.999,
        # A simulator's fixed camera and light: half the published strengths are enough, and cost less to learn.
        "augmentation": Augmentation(0.95, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02),
        # Where the gripper is, how far open, and where it will next close or open: few examples do not teach
        # that by tokens.
        "privileged": (
            "observation.state[0:3]",
            "observation.state[6:8]",
            "observation.state[0:3]@keyframe",
        ),
        "privileged_weight": 2.0,
        "keypoints": ("observation.state[0:3]", "observation.state[0:3]@keyframe"),
        "soft_targets": 0.05,
        "foreign_tokens": 0.3,
        "instructions": INSTRUCTIONS,
    }
    return TrainConfig(dataset=Path(dataset), output=Path(output), **(recipe | changes))


RECIPES = {"nano": nano}
"""Recipes by the name of their preset: (dataset, output, **changes) -> TrainConfig."""
