"""The options that say which policy to load; verbs that run a policy share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

if TYPE_CHECKING:
    from spatialvla.policy import Execution, Policy


@dataclass(frozen=True)
class PolicyOptions:
    policy: str
    """Checkpoint folder, shipped model (nano) or Hub id."""

    dataset: str | None = None
    """Whose statistics scale the actions; needed where the checkpoint has several."""

    device: str | None = None
    """cpu, cuda, cuda:1 …; the GPU if there is one."""

    precision: Literal["fp32", "bf16", "int8", "fp8"] = "fp32"
    """Of the weights. int8 and fp8 (on a GPU) are the decoder's alone, with bf16 around them."""

    compile: bool = False
    """Let torch compile the model, which takes minutes when it is loaded, and on a GPU record CUDA graphs."""

    def load(self, execution: Execution | None = None, *, tolerance: int = 0, depth_every: int = 1) -> Policy:
        """The policy, ready to predict; it executes whole chunks unless told otherwise.

        tolerance, depth_every: as of `Policy`.
        """
        import torch

        from spatialvla.model.optimize import Optimization
        from spatialvla.policy import Execution, Policy
        from spatialvla.training.cpu import tune_cpu

        tune_cpu()
        weights = None if self.precision == "fp32" or self.precision == "bf16" else self.precision
        return Policy.from_pretrained(
            self.policy,
            dataset=self.dataset,
            execution=execution or Execution(),
            tolerance=tolerance,
            depth_every=depth_every,
            dtype=torch.float32 if self.precision == "fp32" else torch.bfloat16,
            device=self.device or ("cuda" if torch.cuda.is_available() else "cpu"),
            optimization=Optimization(weights=weights, compile=self.compile),
        )


FlatPolicyOptions = Annotated[PolicyOptions, arg(name="")]
"""The options without a prefix: --policy, not --options.policy."""
