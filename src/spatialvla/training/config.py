"""What a training run is made of: one frozen configuration."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from spatialvla.actions.grids import Bins
from spatialvla.data.augmentation import Augmentation
from spatialvla.errors import InputError
from spatialvla.model.lora import LoraOptions
from spatialvla.training.run.trackers import TrackerName


@dataclass(frozen=True)
class DatasetConfig:
    """One dataset to train on.

    path: folder, URL or Hub id of an RLDS, LeRobot or RH20T dataset. weight: draws of each of its samples an epoch.
    mapping: YAML file that says what a LeRobot dataset's features mean. camera: the RGB feature of a LeRobot dataset
    to look through, instead of the mapping's; None takes that, or the only one. spec: name of an RLDS dataset's spec,
    where its own name does not tell. key: name of its statistics in the model; None takes the dataset's own.
    """

    path: str
    weight: float = 1.0
    mapping: Path | None = None
    camera: str | None = None
    spec: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InputError(
                f"The weight of {self.path} must be positive, not {self.weight}; leave the dataset out instead."
            )


@dataclass(frozen=True)
class Guidance:
    """What helps a network that starts from random weights and sees few demonstrations; all off by default.

    It needs the dataset in memory, see `TrainConfig.in_memory`.

    privileged: features whose values an auxiliary head regresses from the prompt, with weight `privileged_weight`;
        see `PrivilegedTargets`.
    soft_targets: how far a token's target spreads to neighbouring cells, in normalised actions.
    foreign_tokens: share of the action tokens to go on from that are another sample's, see `with_foreign_tokens`.
    vision_steps: batches of a first stage in which the image encoder alone learns to regress `privileged` and the
        actions, at `vision_rate`; see `pretrain_vision`. vision_batch_size: frames of each.
    keypoints: positions in the world, named like `privileged`, that this stage learns to look at.
    depth_mix: share of the samples that see the other depth than `TrainConfig.depth` says, drawn anew each time.
    """

    privileged: tuple[str, ...] = ()
    privileged_weight: float = 0.0
    soft_targets: float = 0.0
    foreign_tokens: float = 0.0
    vision_steps: int = 0
    vision_rate: float = 5e-4
    vision_batch_size: int = 32
    keypoints: tuple[str, ...] = ()
    depth_mix: float = 0.0

    def __post_init__(self) -> None:
        _check_fractions(self, "foreign_tokens", "depth_mix")
        if self.privileged_weight > 0 and not self.privileged:
            raise InputError("privileged_weight needs the names of the features to regress in `privileged`.")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Fractions and intervals count from 0 to 1 and in steps unless a unit is named.

    datasets: what to train on. output: folder of the run, its checkpoints, metrics and final model.
    in_memory: decode all frames of the (one LeRobot) dataset once and keep them, which is fastest for small ones.
    cache: folder of decoded frames, depth and surveys; None keeps frames inside the dataset, surveys in the user's
        cache folder.
    workers: processes that decode, of each rank. on_bad: whether a damaged episode ends the run or is skipped.
    missing_instruction: what stands for an instruction where there is none; None leaves such episodes out.
    held_out: fraction of the episodes kept for validation; eval_frames of them are evaluated.

    policy: folder or Hub id of a SpatialVLA to start from; else paligemma and zoedepth: folders in their published
        layouts; else random weights of `preset`, with `depth_weights`, a trained ZoeDepth, in it.
    instructions: JSON list of texts a new tokenizer is made from, beside the dataset's own.
    grid: "fitted" to the datasets, or "uniform" (the paper's ablation). bins: of a new grid; min_sigma: floor of its
        Gaussians' deviations. A `policy` brings tokenizer and grid.
    mode: "full" trains everything but ZoeDepth and, with freeze_text_embeddings, the text embeddings; "lora"
        adapters of `lora`; "adapt" makes a new grid for the dataset and trains its embeddings and the Ego3D MLP only.
    new_grid: carry the `policy` over to a new grid in the other modes, too.
    mask: "prefix" lets the prompt see itself both ways, "causal" does not.
    committed_share: of the samples, whose first steps, 1 to `committed_steps` of them, are given as steps already under
        way: no loss is taken on them; see `with_committed_steps`. 0 steps: of none. committed_jitter: probability that
        a coordinate of such a step is a neighbouring cell's.
    depth: what Ego3D sees, the frozen estimator's depth ("estimate") or the dataset's ("sensor").

    steps, minutes: the run ends after so many steps, or so much time where `minutes` is given, whichever
        comes first, and the learning rate follows whichever is further along.
    batch_size: samples a step, over all ranks. accumulation: parts in which a rank goes through its share.
    learning_rate: of every parameter, times the factor of the longest matching name in `rate_factors`.
    warmup: fraction of the run; schedule: the decay after it, down to `final_rate` of the peak.
    ema_decay: of an average of the weights that is evaluated and exported; 0 keeps none.
    precision: "bf16" autocast over float32 weights, "fp32", or "auto": bf16 where the hardware multiplies it.
    activation_checkpointing: compute activations again in the backward pass instead of keeping them.
    compile: let torch compile the layers, which takes minutes at the start and pays on GPUs.
    skip_bad_batches: leave steps out whose loss is no number, and count them, instead of ending the run.
    trackers: beside metrics.jsonl. rollout_suite: LIBERO suite played every `rollout_every` steps,
        `rollout_episodes` a task.
    """

    datasets: tuple[DatasetConfig, ...]
    output: Path
    in_memory: bool = False
    cache: Path | None = None
    workers: int = 0
    on_bad: Literal["raise", "skip"] = "raise"
    missing_instruction: str | None = None
    held_out: float = 0.05
    eval_frames: int = 256
    augmentation: Augmentation = field(default_factory=Augmentation)

    preset: str = "nano"
    policy: str | None = None
    paligemma: str | None = None
    zoedepth: str | None = None
    instructions: Path | None = None
    depth_weights: Path | None = None
    grid: Literal["fitted", "uniform"] = "fitted"
    bins: Bins = field(default_factory=Bins)
    min_sigma: float = 0.0
    mode: Literal["full", "lora", "adapt"] = "full"
    new_grid: bool = False
    lora: LoraOptions = field(default_factory=LoraOptions)
    freeze_text_embeddings: bool = True
    mask: Literal["prefix", "causal"] = "prefix"
    depth: Literal["estimate", "sensor"] = "estimate"
    committed_steps: int = 0
    committed_share: float = 0.5
    committed_jitter: float = 0.0
    guidance: Guidance = field(default_factory=Guidance)

    steps: int = 10_000
    minutes: float | None = None
    batch_size: int = 32
    accumulation: int = 1
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
    activation_checkpointing: bool = False
    compile: bool = False
    skip_bad_batches: bool = False
    seed: int = 0

    eval_every: int = 500
    save_every: int = 500
    log_every: int = 20
    keep: int = 2
    trackers: tuple[TrackerName, ...] = ()
    rollout_suite: str | None = None
    rollout_every: int = 5_000
    rollout_episodes: int = 1

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "accumulation",
            "eval_every",
            "save_every",
            "log_every",
            "keep",
            "rollout_every",
            "rollout_episodes",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}.")
        _check_fractions(self, "warmup", "final_rate", "ema_decay", "held_out")
        _check_fractions(self, "committed_share", "committed_jitter")
        if self.committed_steps < 0:
            raise InputError(f"committed_steps must be 0 or more, not {self.committed_steps}.")
        if self.minutes is not None and self.minutes <= 0:
            raise InputError(f"minutes must be positive, not {self.minutes}.")
        if not self.datasets:
            raise InputError("There is nothing to train on; name a dataset or a mixture.")
        if self.in_memory and len(self.datasets) > 1:
            raise InputError("Only one dataset can be held in memory; train on several with in_memory=False.")
        if self.guidance != Guidance() and not self.in_memory:
            raise InputError("guidance needs the dataset in memory; set in_memory=True.")
        if (self.mode != "full" or self.new_grid) and self.policy is None:
            raise InputError(f"mode {self.mode!r} goes on from a checkpoint; give `policy`.")

    def computes_bfloat16(self, device: torch.device) -> bool:
        """Whether matrix products are computed in bf16."""
        return self.precision == "bf16" or (self.precision == "auto" and multiplies_bfloat16(device))

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """A context in which matrix products are computed as `precision` says."""
        return (
            torch.autocast(device.type, torch.bfloat16) if self.computes_bfloat16(device) else nullcontext()
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the record kept with the run."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _check_fractions(config: object, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"{name} is a fraction in [0, 1], not {getattr(config, name)}.")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 here. A CPU without such instructions emulates it, 4 times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
