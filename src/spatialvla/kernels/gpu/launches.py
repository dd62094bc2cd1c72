"""How the kernels of a decode step follow each other: each may begin while the one before ends.

A kernel of a Hopper GPU or a later one is brought to its processors meanwhile (programmatic dependent launch),
and waits there before it reads what the other wrote.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

INTERPRETED = triton.knobs.runtime.interpret
"""Whether kernels run on the CPU, line by line, to be tested."""


EARLY_ROWS = 1
"""Up to so many rows: with more, programs that wait take the room of those that work (2.79 ms a pass of 11 rows
of the 4 B model's decoder on an H100, and 2.35 ms without)."""


@cache
def _can_be_early() -> bool:
    return not INTERPRETED and torch.cuda.get_device_capability() >= (9, 0)


def options(rows: int) -> dict[str, Any]:
    """What a launch for so many rows is given."""
    early = rows <= EARLY_ROWS and _can_be_early()
    return {"EARLY": True, "launch_pdl": True} if early else {"EARLY": False}


@triton.jit
def let_the_next_begin(EARLY: tl.constexpr):
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def after_the_last(EARLY: tl.constexpr):
    if EARLY:
        gdc_wait()
