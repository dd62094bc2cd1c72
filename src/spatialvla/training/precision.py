"""In which precision matrix products are computed while training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from spatialvla.training.options import Precision


def computes_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether matrix products are computed in bf16."""
    return precision == "bf16" or (precision == "auto" and multiplies_bfloat16(device))


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """A context in which matrix products are computed as `precision` says."""
    bf16 = computes_bfloat16(precision, device)
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 here. A CPU without such instructions emulates it, 4 times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
