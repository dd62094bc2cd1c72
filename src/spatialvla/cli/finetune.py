"""`spatialvla finetune`: a checkpoint goes on learning from a robot's own demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from spatialvla.cli.run_options import DatasetOptions, RunOptions


@dataclass(frozen=True, kw_only=True)
class Finetune(RunOptions):
    """Fine-tune a checkpoint on a robot's demonstrations.

    Options left out follow the published recipe of the mode.
    """

    data: Annotated[DatasetOptions, arg(name="")]

    mode: Literal["full", "lora", "adapt"] = "lora"
    """All weights, LoRA adapters, or the embeddings of a new action grid and Ego3D's MLP alone."""

    out: Path = Path("runs/finetune")
    """Folder for checkpoints, metrics and the model, which comes to <out>/model."""

    policy: str | None = None
    """Checkpoint to start from: folder, shipped model (nano) or Hub id."""

    new_grid: bool = False
    """Carry the checkpoint over to a grid fitted to the data; --mode adapt always does."""

    grid: Literal["fitted", "uniform"] | None = None
    """Kind of the new grid; uniform is the paper's ablation."""

    min_sigma: float | None = None
    """Floor of the deviations of the new grid's Gaussians."""

    lora_rank: int = 32
    """Of LoRA adapters, which are scaled by alpha over rank."""

    lora_alpha: float = 32
    """Of LoRA adapters."""

    freeze_text_embeddings: bool | None = None
    """Keep the words' embeddings as they are."""

    def changes(self) -> dict[str, Any]:
        from spatialvla.model.lora import LoraOptions

        return super().changes() | {"lora": LoraOptions(self.lora_rank, self.lora_alpha)}

    def run(self) -> None:
        from spatialvla.training.recipes import finetune

        self.carry_out(finetune(self.data.references(), self.out, **self.changes()))
