"""The options that say which policy to load; verbs that run a policy share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

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

    def load(self, execution: Execution | None = None, *, tolerance: int = 0, depth_every: int = 1) -> Policy:
        """The policy, ready to predict; it executes whole chunks unless told otherwise.

        tolerance, depth_every: as of `Policy`.
        """
        import torch

        from spatialvla.policy import Execution, Policy

        return Policy.from_pretrained(
            self.policy,
            dataset=self.dataset,
            execution=execution or Execution(),
            tolerance=tolerance,
            depth_every=depth_every,
            device=self.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        )


FlatPolicyOptions = Annotated[PolicyOptions, arg(name="")]
"""The options without a prefix: --policy, not --options.policy."""
