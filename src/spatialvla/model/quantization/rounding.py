"""A weight rounded to 4 bits: its scales, its multipliers, and the nearest numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from spatialvla.kernels.four_bits import PART, ZERO, FourBits
from spatialvla.kernels.products import GROUP

LARGEST = 15
"""Of numbers and of multipliers."""

_SHARES = (1.0, 0.94, 0.88, 0.82, 0.76, 0.7)
"""Of the step that reaches a part's largest weight: smaller ones cut that weight off and round the others better."""
_AT_ONCE = 2**20
"""Numbers that are worked on together, so that they stay in a cache."""


@dataclass(frozen=True)
class Steps:
    """The grid that a weight (N, K) is rounded to. multipliers: (N, parts) uint8. scales: (N, groups) bfloat16."""

    multipliers: torch.Tensor
    scales: torch.Tensor

    def expanded(self, inputs: int) -> torch.Tensor:
        """(N, K) float32: how far apart neighboring numbers are, negative where the scale is. inputs: K."""
        steps: torch.Tensor = (
            self.multipliers.float().unflatten(1, (-1, GROUP // PART)) * self.scales.float()[..., None]
        )
        return steps.flatten(1).repeat_interleave(PART, dim=1)[:, :inputs]


def rounded(weight: torch.Tensor) -> FourBits:
    """(N, K) -> the nearest weight in 4 bits, on steps that fit each 32 neighboring inputs best."""
    found = [_rounded(rows) for rows in weight.detach().split(max(1, _AT_ONCE // weight.shape[1]))]
    return FourBits(torch.cat([w.numbers for w in found]), torch.cat([w.scales for w in found]))


def _rounded(weight: torch.Tensor) -> FourBits:
    steps = fitting_steps(weight)
    numbers = nearest(weight.float(), steps.expanded(weight.shape[1]))
    return FourBits.of(numbers, steps.multipliers, steps.scales)


def nearest(weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """The numbers from 0 to 15 that stand for a weight most closely, as floats, on steps of the same shape."""
    return (weight / step).round_().add_(ZERO).clamp_(0, LARGEST)


def fitting_steps(weight: torch.Tensor, importance: torch.Tensor | None = None) -> Steps:
    """Steps on which a weight (N, K) rounds with small squared error.

    importance: (K,), of each input's error; None for equal ones.
    """
    wide = F.pad(weight.float(), (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP // PART, PART))
    shares = torch.ones_like(wide[0]) if importance is None else _parts_of(importance.float())
    # Numbers reach one further below zero than above it, and a scale may be negative.
    flat = wide.flatten(2)
    extreme = flat.gather(2, flat.abs().argmax(dim=2, keepdim=True))
    sign = torch.where(extreme > 0, -1.0, 1.0)[..., None]
    turned = wide * sign
    reach = torch.maximum(turned.amax(-1) / (LARGEST - ZERO), -turned.amin(-1) / ZERO)
    largest = reach.amax(dim=-1, keepdim=True)
    reach = torch.maximum(reach, largest / LARGEST / 2).clamp_(min=torch.finfo(torch.float32).tiny)
    step, least = reach, torch.full_like(reach, float("inf"))
    for share in _SHARES:
        tried = reach * share
        error = (nearest(turned, tried[..., None]).sub_(ZERO).mul_(tried[..., None])).sub_(turned)
        error = error.square_().mul_(shares).sum(dim=-1)
        better = error < least
        step, least = torch.where(better, tried, step), torch.where(better, error, least)
    scale = (step.amax(dim=-1, keepdim=True) / LARGEST).bfloat16()
    multipliers = (step / scale.float()).round().clamp_(1, LARGEST).to(torch.uint8)
    return Steps(multipliers.flatten(1), (scale.float() * sign[..., 0]).bfloat16()[..., 0])


def _parts_of(importance: torch.Tensor) -> torch.Tensor:
    return F.pad(importance, (0, -len(importance) % GROUP)).view(-1, GROUP // PART, PART)
