"""The options that say which policy to load; verbs that run a policy share them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from spatialvla.execution import WHOLE_CHUNKS, Execution
from spatialvla.types import Readout

if TYPE_CHECKING:
    from spatialvla.policy import Policy
    from spatialvla.processor import Processor


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyOptions:
    """Which policy to load, and how.

    Precision is that of the weights. auto: bf16 on a GPU, on a CPU that has our kernels for it (`spatialvla doctor`),
    and where the checkpoint is stored in it; else fp32. What is stored in float16, as nano, is rounded to bf16 there,
    too; fp32 keeps all its bits.
    int8, int4 and fp8 (on a GPU) are the decoder's alone, with bf16 around them. w8a8 and w4a8 (on a CPU) take int8
    in the vision towers, too, and 8 bits for what is multiplied with them.
    """

    policy: str
    """Checkpoint folder, training run, shipped model (nano, nano-wrist) or Hub id, also owner/name@revision."""

    base: str | None = None
    """Base of an adapter: a checkpoint; None takes the one that its adapter_config.json names."""

    dataset: str | None = None
    """Whose statistics scale the actions; None takes a suite's own where one is played, else what was trained last."""

    device: str = "auto"
    """cpu, cuda, cuda:1 …; auto is the GPU if there is one."""

    precision: Literal["auto", "fp32", "bf16", "int8", "w8a8", "int4", "w4a8", "fp8"] = "auto"
    """Of the weights, see above."""

    readout: Readout | None = None
    """Actions of the likeliest tokens, as published, or the mean over all tokens; None takes what the policy says."""

    compile: bool = False
    """Let torch compile the model, minutes when it is loaded, and on a GPU record CUDA graphs."""

    def load(
        self,
        execution: Execution = WHOLE_CHUNKS,
        *,
        tolerance: int = 0,
        depth_every: int = 1,
        uncertainty: bool = False,
        processor: Processor | None = None,
    ) -> Policy:
        """The policy, ready to predict; it executes whole chunks unless told otherwise.

        tolerance, depth_every, uncertainty: as of `Policy`. processor: its own, where it has been read already.
        """
        import torch

        from spatialvla.common.cpu import tune_cpu
        from spatialvla.common.device import find_device
        from spatialvla.kernels.library import available
        from spatialvla.model.fast.options import PRECISIONS, Optimization
        from spatialvla.model.folders import stored_dtype
        from spatialvla.policy import Policy

        tune_cpu()
        device = find_device(self.device)
        dtype = torch.float32 if self.precision == "fp32" else torch.bfloat16
        if (
            self.precision == "auto"
            and device.type == "cpu"
            and stored_dtype(self.policy, self.base) != torch.bfloat16
            and not available()
        ):
            dtype = torch.float32
        log.debug("%s is loaded onto %s in %s, precision %s", self.policy, device, dtype, self.precision)
        weights, activations = PRECISIONS.get(self.precision, (None, None))
        return Policy.from_pretrained(
            self.policy,
            dataset=self.dataset,
            execution=execution,
            tolerance=tolerance,
            depth_every=depth_every,
            uncertainty=uncertainty,
            readout=self.readout,
            dtype=dtype,
            device=str(device),
            optimization=Optimization(
                weights=weights,
                activations=activations,
                compile=self.compile,
            ),
            base=self.base,
            processor=processor,
        )


FlatPolicyOptions = Annotated[PolicyOptions, OmitArgPrefixes, arg(name="policy")]
"""The options without a prefix: --policy, not --options.policy."""
