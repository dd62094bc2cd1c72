"""Recipes: the full configurations of published runs and of our own, without datasets.

A run is a recipe with what is to differ: `replace(nano(), datasets=(DatasetConfig("demos"),), minutes=5)`.
"""

from __future__ import annotations

import os
from pathlib import Path

from spatialvla.actions.bins import NANO_BINS
from spatialvla.data.augmentation import Augmentation
from spatialvla.training.config import FineTuning, TrainConfig
from spatialvla.training.guidance_config import Guidance

INSTRUCTIONS = Path(__file__).parent.parent / "assets" / "libero_instructions.json"
"""What LIBERO's tasks ask for (MIT), so that the small tokenizer knows more words than one dataset has."""


def nano(policy: str | None = None) -> TrainConfig:
    """The shipped small model: everything but depth from random weights, in 1.5 hours on 2 CPU cores.

    It is made for LIBERO demonstrations as `spatialvla record` writes them.
    policy: a checkpoint to go on from.
    """
    return TrainConfig(
        out=Path("runs/train-nano"),
        policy=policy,
        in_memory=True,
        preset="nano",
        bins=NANO_BINS,
        # As published: without a floor the cells of small motions, which grasping needs, are the widest.
        min_sigma=0.5,
        freeze_text_embeddings=False,
        guidance=Guidance(
            # Where the gripper is, how far open, and where it will next close or open: few examples do not
            # teach that by tokens.
            privileged=(
                "observation.state[0:3]",
                "observation.state[6:8]",
                "observation.state[0:3]@keyframe",
            ),
            privileged_weight=2.0,
            soft_targets=0.05,
            foreign_tokens=0.3,
            # A policy to go on from can see already.
            vision_steps=5_000 if policy is None else 0,
            keypoints=("observation.state[0:3]", "observation.state[0:3]@keyframe"),
        ),
        minutes=60.0,
        steps=100_000,
        batch_size=16,
        learning_rate=6e-4,
        # At the full rate a tower trained from scratch collapses.
        rate_factors={"model.vision_tower": 0.5},
        warmup=0.02,
        schedule="cosine",
        final_rate=0.01,
        weight_decay=0.05,
        betas=(0.9, 0.95),
        ema_decay=0.999,
        # A simulator's fixed camera and light: half the published strengths are enough and cost less.
        augmentation=Augmentation(0.95, 1.0, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.02),
        instructions=INSTRUCTIONS,
        trackers=("tensorboard",),
    )


def pretrain() -> TrainConfig:
    """As published (§III-C): 64 GPUs with 32 samples each, everything but ZoeDepth and the text embeddings.

    How many steps those ten days took is not published; this number is ours.
    """
    return TrainConfig(
        out=Path("runs/pretrain"),
        preset="4b",
        min_sigma=0.5,
        batch_size=2048,
        steps=160_000,
        learning_rate=2e-5,
        warmup=0.005,
        schedule="linear",
        precision="bf16",
        activation_checkpointing=True,
        workers=min(8, os.cpu_count() or 1),
        on_bad="skip",
        shares="published",
        held_out=0.005,
        eval_frames=2_048,
        eval_every=2_000,
        save_every=1_000,
    )


def finetune(mode: FineTuning = "lora") -> TrainConfig:
    """Full at a rate of 2e-5, LoRA of rank 32 at 5e-4, or a new grid's embeddings alone.

    Of full and LoRA the rates, their course and the augmentation are published (§IV and the fine-tuning
    scripts). Steps, batch size and the third mode are ours.
    """
    return TrainConfig(
        out=Path("runs/finetune"),
        policy="IPEC-COMMUNITY/spatialvla-4b-224-pt",
        mode=mode,
        batch_size=32,
        steps=10_000,
        learning_rate={"full": 2e-5, "lora": 5e-4, "adapt": 5e-4}[mode],
        warmup=0.005,
        schedule="cosine" if mode == "adapt" else "linear",
        activation_checkpointing=True,
        workers=min(4, os.cpu_count() or 1),
        eval_every=1_000,
        save_every=1_000,
    )
