"""Networks with weights in 4 bits: made of whole ones, or empty, to be filled without ever holding those."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.gemma2 import Layer
from spatialvla.model.network import Network
from spatialvla.model.published import N, empty_network
from spatialvla.model.quantization.linear import FourBitLinear
from spatialvla.model.quantization.rounding import rounded
from spatialvla.model.quantization_entry import Quantization


def quantize(network: Network, options: Quantization) -> None:
    """Rounds the weights of the decoder's layers, and of what else the options name, to 4 bits, in place.

    Layers that have been quantized already, with more care, stay as they are.
    Raises InputError for a network that is quantized.
    """
    if network.config.quantization is not None:
        raise InputError("The checkpoint's weights are in 4 bits already; start from the one it was made of.")
    for layer in network.language_model.model.layers:
        replace_linears(layer)
    for tower in _towers(network, options):
        replace_linears(tower)
    if not options.text_head:
        _forget_text(network)
    network.config = network.config.replace(quantization=options)


def replace_linears(module: nn.Module) -> None:
    """Rounds all linear layers below a module to 4 bits, in place."""
    for parent, name, layer in linears(module):
        weight = layer.weight.detach()
        setattr(parent, name, FourBitLinear(rounded(weight), weight.shape[1], layer.bias))


def linears(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name, layer) of each linear layer below a module."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                yield parent, name, layer


def empty_quantized(kind: type[N], config: SpatialVLAConfig, dtype: torch.dtype) -> N:
    """A quantized network to be filled. The weights that are in 4 bits are never held in more."""
    options, text = cast(Quantization, config.quantization), config.text
    without_layers = config.replace(text=replace(text, num_hidden_layers=0))
    network = empty_network(kind, without_layers, dtype)
    device = network.device
    if not options.text_head:
        _forget_text(network)
    for tower in _towers(network, options):
        _empty_linears(tower, dtype, device)
    for index in range(text.num_hidden_layers):
        with torch.device("meta"):
            layer = Layer(text, index).to(dtype)
        _empty_linears(layer, dtype, device)
        for norm in layer.children():
            if next(norm.parameters(), None) is not None:
                norm.to_empty(device=device)
        network.language_model.model.layers.append(layer)
    network.config = config
    network.language_model.model.config = text
    return network


def widen(network: Network) -> None:
    """Makes a quantized network an ordinary one with the same weights, in place."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, FourBitLinear):
                setattr(parent, name, layer.widened(network.dtype))
    network.config = network.config.replace(quantization=None)


def check_scales(network: Network, source: object) -> None:
    """Raises CheckpointError where scales that were read are no numbers. source: what it was read from."""
    for name, part in network.named_modules():
        if isinstance(part, FourBitLinear) and not part.four_bits.group_scales().isfinite().all():
            raise CheckpointError(f"{name}.scales in {source} contains NaN or infinity; download it again.")


def _empty_linears(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    for parent, name, layer in linears(module):
        bias = None if layer.bias is None else torch.zeros(layer.out_features, dtype=dtype, device=device)
        with device:
            setattr(parent, name, FourBitLinear.empty(layer.in_features, layer.out_features, bias))


def _towers(network: Network, options: Quantization) -> list[nn.Module]:
    if not options.towers:
        return []
    seeing: list[nn.Module] = [network.vision_tower]
    return [*seeing, network.vision_zoe_model] if network.config.use_vision_zoe else seeing


def _forget_text(network: Network) -> None:
    decoder = network.language_model
    decoder.lm_head = decoder.lm_head.without_text(network.config.action_token_begin_idx)
