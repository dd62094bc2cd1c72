"""How the kernels of a decode step follow each other: each may begin while the one before ends.

A kernel of a Hopper GPU or a later one is brought to its processors meanwhile (programmatic dependent launch),
and waits there before it reads what the other wrote.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

INTERPRETED = triton.knobs.runtime.interpret
"""Whether kernels run on the CPU, line by line, to be tested."""


@cache
def early() -> bool:
    """Whether this device can."""
    if INTERPRETED or os.environ.get("SPATIALVLA_EARLY_LAUNCH") == "0":
        return False
    return torch.cuda.get_device_capability() >= (9, 0)


def options() -> dict[str, Any]:
    """What every launch is given."""
    return {"EARLY": True, "launch_pdl": True} if early() else {"EARLY": False}


@triton.jit
def let_the_next_begin(EARLY: tl.constexpr):
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def after_the_last(EARLY: tl.constexpr):
    if EARLY:
        gdc_wait()
