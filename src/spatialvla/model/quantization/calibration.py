"""Calibration: what each linear layer of the decoder is given on real prompts, and its weight rounded for that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from spatialvla.batch import Batch
from spatialvla.model.gemma2 import Layer
from spatialvla.model.network import Network
from spatialvla.model.quantization.correction import corrected
from spatialvla.model.quantization.linear import FourBitLinear
from spatialvla.model.quantization.network import linears


@dataclass
class _Pass:
    """What one batch gives a layer, and which of its tokens are real (B, T)."""

    given: tuple[Any, ...]
    real: torch.Tensor


class _Reached(Exception):
    """The first layer has been reached: what it was given is known."""


@torch.no_grad()
def quantize_decoder(
    network: Network, batches: Sequence[Batch], done: Callable[[int], object] = lambda layer: None
) -> None:
    """Rounds the weights of the decoder's layers to 4 bits in place, one layer after the other.

    Each is fitted to what the rounded layers before it make of the batches, which have labels: so it makes up for
    them, too. done: is called with the number of layers that are rounded.
    """
    layers = [cast(Layer, layer) for layer in network.language_model.model.layers]
    passes = [_first_pass(network, batch) for batch in batches]
    for index, layer in enumerate(layers):
        hessians = _hessians(layer, passes)
        for parent, name, linear in linears(layer):
            weight = corrected(linear.weight, hessians.pop(linear))
            setattr(parent, name, FourBitLinear(weight, linear.in_features))
        for one in passes:
            one.given = (layer(*one.given), *one.given[1:])
        done(index + 1)


def _first_pass(network: Network, batch: Batch) -> _Pass:
    """What the first layer is given. All layers get the same bias: prompts are shorter than the window."""
    found: list[tuple[Any, ...]] = []

    def stop(layer: nn.Module, given: tuple[Any, ...]) -> None:
        found.append(given)
        raise _Reached

    hook = network.language_model.model.layers[0].register_forward_pre_hook(stop)
    try:
        network.hidden_states(batch, "prefix")
    except _Reached:
        pass
    finally:
        hook.remove()
    return _Pass(found[0], batch.attention_mask)


def _hessians(layer: Layer, passes: Sequence[_Pass]) -> dict[nn.Module, torch.Tensor]:
    """Sums of x xᵀ over the inputs of each linear layer; those with the same input share one."""
    sums: dict[nn.Module, torch.Tensor] = {}
    sharing: dict[nn.Module, nn.Module] = {}
    seen: list[tuple[torch.Tensor, nn.Module]] = []
    real = passes[0].real

    def add(linear: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        for x, first in seen:
            if x is given[0]:
                sharing[linear] = first
                return
        seen.append((given[0], linear))
        x = given[0][real].float()
        if linear in sums:
            sums[linear].addmm_(x.T, x)
        else:
            sums[linear] = x.T @ x

    hooks = [linear.register_forward_pre_hook(add) for _, _, linear in linears(layer)]
    try:
        for one in passes:
            real = one.real
            seen.clear()
            layer(*one.given)
    finally:
        for hook in hooks:
            hook.remove()
    return sums | {linear: sums[first] for linear, first in sharing.items()}
