"""`spatialvla export`: a run or an adapter as a folder that every verb, and `from_pretrained`, can load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spatialvla.cli.verb import Verb


@dataclass(frozen=True)
class Export(Verb):
    """Write a run's newest weights, or an adapter, as a checkpoint."""

    policy: str
    """Folder of a training run or of an adapter (or any checkpoint, to change its dtype)."""

    out: Path
    """Folder to write."""

    base: str | None = None
    """Base of an adapter: a checkpoint; None takes the one that its adapter_config.json names."""

    merge: bool = False
    """Merge a LoRA adapter into its base; otherwise the adapter alone is written."""

    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the weights in the files."""

    max_shard_size: str = "5GB"
    """Above this the weights are split over several files with an index."""

    def run(self) -> None:
        """Writes, and says where."""
        import torch

        from spatialvla.training.checkpoints.export import export

        dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        export(
            self.policy,
            self.out,
            base=self.base,
            merge=self.merge,
            dtype=dtypes[self.dtype],
            max_shard_size=self.max_shard_size,
        )
        print(f"Wrote {self.out}")
