"""Recipes: functions that return a full configuration of a run; changes are the fields that are to differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from spatialvla.data.augmentation import Augmentation
from spatialvla.model.presets import NANO_BINS
from spatialvla.training.config import DatasetConfig, Guidance, TrainConfig

INSTRUCTIONS = Path(__file__).parent.parent / "assets" / "libero_instructions.json"
"""What LIBERO's tasks ask for (MIT), so that the small tokenizer knows more words than one dataset has."""


def nano(datasets: Sequence[DatasetConfig], output: str | Path, **changes: Any) -> TrainConfig:
    """The shipped small model: everything but depth from random weights, on 2 CPU cores in an hour and a half.

    It is made for LIBERO demonstrations as `spatialvla record` writes them.
    """
    guidance = Guidance(
        # Where the gripper is, how far open, and where it will next close or open: few examples do not teach
        # that by tokens.
        privileged=("observation.state[0:3]", "observation.state[6:8]", "observation.state[0:3]@keyframe"),
        privileged_weight=2.0,
        soft_targets=0.05,
        foreign_tokens=0.3,
        # A policy to go on from can see already.
        vision_steps=0 if changes.get("policy") else 5_000,
        keypoints=("observation.state[0:3]", "observation.state[0:3]@keyframe"),
    )
    recipe: dict[str, Any] = {
        "in_memory": True,
        "preset": "nano",
        "bins": NANO_BINS,
        # As published: without a floor the cells of small motions, which grasping needs, are the widest.
        "min_sigma": 0.5,
        "freeze_text_embeddings": False,
        "guidance": guidance,
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
        "instructions": INSTRUCTIONS,
        "trackers": ("tensorboard",),
    }
    return TrainConfig(datasets=tuple(datasets), output=Path(output), **(recipe | changes))


def pretrain(datasets: Sequence[DatasetConfig], output: str | Path, **changes: Any) -> TrainConfig:
    """As published (§III-C): 64 GPUs with 32 samples each, everything but ZoeDepth and the text embeddings.

    How many steps those ten days took is not published; this number is ours.
    """
    recipe: dict[str, Any] = {
        "preset": "4b",
        "min_sigma": 0.5,
        "batch_size": 2048,
        "steps": 160_000,
        "learning_rate": 2e-5,
        "warmup": 0.005,
        "schedule": "linear",
        "precision": "bf16",
        "activation_checkpointing": True,
        "workers": min(8, os.cpu_count() or 1),
        "on_bad": "skip",
        "held_out": 0.005,
        "eval_frames": 2_048,
        "eval_every": 2_000,
        "save_every": 1_000,
    }
    return TrainConfig(datasets=tuple(datasets), output=Path(output), **(recipe | changes))


def finetune(
    datasets: Sequence[DatasetConfig],
    output: str | Path,
    mode: Literal["full", "lora", "adapt"] = "lora",
    **changes: Any,
) -> TrainConfig:
    """As published (§IV): full at a rate of 2e-5, LoRA of rank 32 at 5e-4, or the embeddings of a new grid alone."""
    recipe: dict[str, Any] = {
        "policy": "IPEC-COMMUNITY/spatialvla-4b-224-pt",
        "mode": mode,
        "batch_size": 32,
        "steps": 10_000,
        "learning_rate": {"full": 2e-5, "lora": 5e-4, "adapt": 5e-4}[mode],
        "warmup": 0.005,
        "schedule": "linear" if mode == "full" else "cosine",
        "activation_checkpointing": True,
        "workers": min(4, os.cpu_count() or 1),
        "eval_every": 1_000,
        "save_every": 1_000,
    }
    return TrainConfig(datasets=tuple(datasets), output=Path(output), **(recipe | changes))


RECIPES: Mapping[str, Callable[..., TrainConfig]] = {"nano": nano}
"""Recipes of `spatialvla train` by preset: (datasets, output, **changes) -> TrainConfig."""
