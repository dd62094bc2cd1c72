"""The dtype that a user names."""

from __future__ import annotations

import torch

from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError

_NAMED = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def find_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype of weights, by itself or by its name, such as "bfloat16", "torch.bfloat16" or "bf16".

    Raises InputError for what names no dtype that weights have.
    """
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    name = str(dtype).removeprefix("torch.")
    if name not in _NAMED:
        raise InputError(f"There is no dtype of weights called {name!r}; {did_you_mean(name, _NAMED)}")
    return _NAMED[name]
