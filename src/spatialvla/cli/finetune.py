"""`spatialvla finetune`: a checkpoint goes on learning from a robot's own demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tyro.conf import OmitArgPrefixes

from spatialvla.cli.arguments import parse_options, read_first
from spatialvla.cli.training_run import TrainingRun, common_options, part
from spatialvla.errors import InputError
from spatialvla.model.lora_options import LoraOptions
from spatialvla.training.config import AdaptationOptions, FineTuning, TrainConfig
from spatialvla.training.recipes import finetune


@dataclass(frozen=True)
class _Mode:
    mode: FineTuning = "lora"


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingRun):
    """Fine-tune a checkpoint on a robot's demonstrations.

    In the modes full and lora the learning rates, their course and the augmentation are the published ones.
    """

    adaptation: OmitArgPrefixes[AdaptationOptions]
    lora: LoraOptions

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """Reads --mode first, because the recipe depends on it."""
        chosen = read_first(_Mode, arguments, program)
        recipe = finetune(chosen.mode)
        default = cls(**common_options(recipe), adaptation=part(AdaptationOptions, recipe), lora=recipe.lora)
        return parse_options(cls, arguments, program, default)

    @property
    def recipe(self) -> TrainConfig:
        """That of the mode."""
        return finetune(self.adaptation.mode)

    def changes(self) -> dict[str, Any]:
        """Those of all runs, and how much of the policy changes.

        Raises InputError for LoRA's options in another mode.
        """
        mode = self.adaptation.mode
        if mode != "lora" and self.lora != self.recipe.lora:
            raise InputError(
                f"--mode {mode} has no LoRA adapter; leave the options that begin with --lora out."
            )
        return super().changes() | vars(self.adaptation) | {"lora": self.lora}
