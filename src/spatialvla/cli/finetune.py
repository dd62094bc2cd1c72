"""`spatialvla finetune`: a checkpoint goes on learning from a robot's own demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from tyro.conf import OmitArgPrefixes

from spatialvla.cli.training_run import TrainingRun, common_options, part
from spatialvla.errors import InputError
from spatialvla.model.lora_options import LoraOptions
from spatialvla.training.config import TrainConfig
from spatialvla.training.options import AdaptationOptions, FineTuning
from spatialvla.training.recipes import finetune


@dataclass(frozen=True, kw_only=True)
class Finetune(TrainingRun):
    """Fine-tune a checkpoint on a robot's demonstrations.

    The modes full and lora follow the published scripts where the policy is of the published size. The mode
    adapt, and the values for small policies such as nano, are ours.
    """

    adaptation: OmitArgPrefixes[AdaptationOptions]
    lora: LoraOptions

    @classmethod
    def recipe(cls, mode: FineTuning | None, policy: str | None) -> TrainConfig:
        """That of the mode and of the policy's size."""
        return finetune(mode or "lora", policy)

    @classmethod
    def options(cls, config: TrainConfig) -> Self:
        """Those of all runs, and how much of the policy changes."""
        return cls(**common_options(config), adaptation=part(AdaptationOptions, config), lora=config.lora)

    @property
    def mode(self) -> FineTuning | None:
        """How much of the policy changes."""
        return self.adaptation.mode

    def changes(self, begun: TrainConfig) -> dict[str, Any]:
        """Those of all runs, and how much of the policy changes.

        Raises InputError for LoRA's options in another mode.
        """
        if self.mode != "lora" and self.lora != begun.lora:
            raise InputError(
                f"--mode {self.mode} has no LoRA adapter; leave the options that begin with --lora out."
            )
        return super().changes(begun) | vars(self.adaptation) | {"lora": self.lora}
