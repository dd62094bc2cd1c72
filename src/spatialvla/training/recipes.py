"""Recipes: the full configurations of published runs and of our own, without datasets.

A run is a recipe with what is to differ: `replace(nano(), datasets=(DatasetConfig("demos"),), minutes=5)`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from spatialvla.actions.bins import NANO_BINS
from spatialvla.common.json_files import read_json
from spatialvla.data.augmentation import Augmentation
from spatialvla.errors import CheckpointError
from spatialvla.model.lora_options import LoraOptions
from spatialvla.training.config import TrainConfig
from spatialvla.training.guidance_config import Guidance
from spatialvla.training.options import FineTuning

PUBLISHED = "IPEC-COMMUNITY/spatialvla-4b-224-pt"
"""The checkpoint that the published scripts fine-tune."""

SMALL = 1_024
"""Width of the decoder below which a policy is fine-tuned as nano is; the published one has 2,304."""


def nano(policy: str | None = None) -> TrainConfig:
    """A small model as nano is: everything but depth from random weights, in 1.5 hours on 2 CPU cores.

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
        # So small a network has room for any batch, and a GPU little to do with a part of one.
        accumulation=1,
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
        # So that the small tokenizer knows more words than one dataset has.
        instructions=Path("libero"),
        trackers=("tensorboard",),
    )


def pretrain() -> TrainConfig:
    """As published (§III-C, scripts/spatialvla_4b_pretrain): all but ZoeDepth and the text embeddings.

    How many steps those ten days took is not published; their number, and when to validate and save, is ours.
    """
    return TrainConfig(
        out=Path("runs/pretrain"),
        preset="4b",
        min_sigma=0.5,  # torchrun_pretrain.sh: min_sigma=0.5
        batch_size=2048,  # §III-C: 64 GPUs; torchrun_pretrain.sh: PER_DEVICE_BATCH_SIZE=32
        steps=160_000,
        learning_rate=2e-5,  # lr=2e-5
        warmup=0.005,  # --warmup_ratio 0.005
        schedule="linear",  # --lr_scheduler_type linear
        precision="bf16",  # --bf16 True
        activation_checkpointing=True,  # --grad_checkpoint True
        workers=min(8, os.cpu_count() or 1),
        on_bad="skip",
        shares="published",
        held_out=0.005,
        eval_frames=2_048,
        eval_every=2_000,
        save_every=1_000,
    )


def finetune(mode: FineTuning | None = None, policy: str | None = None) -> TrainConfig:
    """As the published scripts fine-tune, or as a policy of nano's size learns well.

    mode: "lora" unless given. Published are full and LoRA; adapt, a new grid's embeddings alone, is ours.
    policy: what to start from, the published checkpoint unless given.
    """
    mode = mode or "lora"
    policy = policy or PUBLISHED
    return _finetune_small(mode, policy) if _is_small(policy) else _finetune_published(mode, policy)


def _finetune_published(mode: FineTuning, policy: str) -> TrainConfig:
    """finetune_full.sh and finetune_lora.sh in scripts/spatialvla_4b_finetune of the published repository.

    Their flash attention hides what follows in the prompt (`mask="causal"`); here the prompt sees itself both
    ways, as in inference. When to validate, log and save is ours.
    """
    published = TrainConfig(
        out=Path("runs/finetune"),
        policy=policy,
        mode=mode,
        batch_size=256,  # both: GPUS=8, PER_DEVICE_BATCH_SIZE=32
        epochs=50,  # both: epoch=50
        steps=None,
        learning_rate=2e-5 if mode == "full" else 5e-4,  # lr of either
        warmup=0.005,  # both: --warmup_ratio 0.005
        schedule="linear",  # both: --lr_scheduler_type linear
        weight_decay=0.0,  # both: --weight_decay 0.0
        augmentation=Augmentation(),  # data/dataset.py: image_augment_kwargs
        activation_checkpointing=True,  # both: --grad_checkpoint True
        lora=LoraOptions(),  # finetune_lora.sh: lora=32, lora_alpha=32, lora_target="linear"
        workers=min(4, os.cpu_count() or 1),
        eval_every=1_000,
        save_every=1_000,
    )
    if mode == "adapt":
        return replace(published, batch_size=32, epochs=None, steps=10_000, schedule="cosine")
    return published


def _finetune_small(mode: FineTuning, policy: str) -> TrainConfig:
    """At the rates with which nano was fine-tuned in benchmarks/ablations.py, near those of its own recipe."""
    return replace(
        _finetune_published(mode, policy),
        batch_size=16,
        epochs=None,
        steps=2_000,
        learning_rate=3e-4 if mode == "full" else 1e-3,
        freeze_text_embeddings=False,
        activation_checkpointing=False,
        eval_every=500,
        save_every=500,
    )


def _is_small(policy: str) -> bool:
    """Whether a checkpoint at hand is narrower than any published language model; one on the Hub is not."""
    if policy == PUBLISHED:
        return False
    # It loads torch, and `finetune --help` is to be fast.
    from spatialvla.model.folders import base_name, is_adapter, is_at_hand, resolve_folder

    if not is_at_hand(policy):
        return False
    try:
        folder = resolve_folder(policy)
        if is_adapter(folder):
            return _is_small(base_name(folder))
        width = read_json(folder / "config.json").get("text_config", {}).get("hidden_size", SMALL)
    except (CheckpointError, AttributeError):
        return False  # the run says what is wrong with the folder
    return isinstance(width, int) and width < SMALL
