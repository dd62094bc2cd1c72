"""What LoRA adapters are like: one frozen configuration, which needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spatialvla.errors import InputError

LoraTarget = Literal["linear", "linear+emb", "linear+emb+h"]


@dataclass(frozen=True)
class LoraOptions:
    """Small matrices that are added to a policy's weights.

    The defaults are published (scripts/spatialvla_4b_finetune/finetune_lora.sh). Published code trains the
    action embeddings whole exactly where they were adapted to a new grid (`adpt_feature` in
    train/spatialvla_finetune.py).
    """

    rank: int = 32
    """Of the adapters."""

    alpha: float = 32
    """The adapters' product is scaled by alpha over rank."""

    dropout: float = 0.0
    """Of the adapters' inputs."""

    target: LoraTarget = "linear"
    """What is adapted: all linear layers but the head, the action embeddings (emb), too, or the head (h), too."""

    modules_to_save: tuple[str, ...] = ()
    """Ends of modules' names, such as spatial_embed_tokens, to train and save whole beside the adapters."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise InputError(
                f"LoRA needs rank >= 1, alpha > 0 and dropout in [0, 1), got {self.rank}, {self.alpha} and "
                f"{self.dropout}."
            )


PUBLISHED = LoraOptions()
"""As published."""
