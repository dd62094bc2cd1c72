"""A weight rounded to 4 bits input by input, each error made up for by the inputs that are still to come.

As in GPTQ (arXiv 2210.17323), on steps that are fixed before, with the inputs that matter most rounded first.
"""

from __future__ import annotations

import torch

from spatialvla.kernels.four_bits import ZERO, FourBits
from spatialvla.model.quantization.rounding import fitting_steps, nearest

DAMPING = 0.01
"""Of the mean of the Hessian's diagonal, added to it: what calibration did not show may still come."""

_BLOCK = 128
"""Inputs whose errors are handed on together to those beyond."""


def corrected(weight: torch.Tensor, hessian: torch.Tensor) -> FourBits:
    """(N, K) -> 4 bits such that products with inputs like those seen change least.

    hessian: (K, K) float32, the sum of x xᵀ over those inputs x.
    """
    K = weight.shape[1]
    diagonal = hessian.diagonal()
    steps = fitting_steps(weight.detach(), diagonal)
    order = torch.argsort(diagonal, descending=True, stable=True)
    step = steps.expanded(K)[:, order]
    wide = weight.detach().float()[:, order]
    numbers = torch.empty_like(wide)
    upper = _inverse_factor(hessian[order][:, order])
    for begin in range(0, K, _BLOCK):
        block = slice(begin, min(begin + _BLOCK, K))
        errors = torch.empty_like(wide[:, block])
        for k in range(begin, block.stop):
            numbers[:, k] = nearest(wide[:, k], step[:, k])
            error = (wide[:, k] - (numbers[:, k] - ZERO) * step[:, k]) / upper[k, k]
            wide[:, k : block.stop].addr_(error, upper[k, k : block.stop], alpha=-1)
            errors[:, k - begin] = error
        wide[:, block.stop :].addmm_(errors, upper[block, block.stop :], alpha=-1)
    back = torch.empty_like(numbers)
    back[:, order] = numbers
    return FourBits.of(back, steps.multipliers, steps.scales)


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse."""
    damped = hessian.clone()
    diagonal = damped.diagonal()
    # An input that was zero throughout says nothing of its weights.
    diagonal[diagonal == 0] = 1
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper
