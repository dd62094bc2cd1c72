"""A network made fast for inference in place: fused, in fewer bits, compiled, both towers at once."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from spatialvla.batch import Batch
from spatialvla.errors import InputError
from spatialvla.kernels.library import available, serve, serve_on_gpu
from spatialvla.model.decoding.chunk import decode
from spatialvla.model.decoding.passes import Passes
from spatialvla.model.fast.compiled import CompiledPasses, CudaGraphs, compile_decoder_layers, compile_vision
from spatialvla.model.fast.cpu_decoder import CPUDecoder, fits_one_call
from spatialvla.model.fast.decoder import ActionHead, fuse_layer, replace_norms
from spatialvla.model.fast.linear import replace_linears
from spatialvla.model.fast.options import Optimization
from spatialvla.model.fast.streams import TwoStreamPasses
from spatialvla.model.fast.towers import speed_up
from spatialvla.model.fast.zoedepth import replace_maps
from spatialvla.model.gemma2 import Layer
from spatialvla.model.network import Network
from spatialvla.model.quantization.linear import FourBitLinear


def check_optimization(options: Optimization, device: torch.device) -> None:
    """Raises InputError where the device cannot do what is asked for."""
    on_gpu = device.type == "cuda"
    if options.weights == "fp8" and not on_gpu:
        raise InputError("fp8 weights need a GPU; choose int8 on a CPU.")
    if options.activations and (on_gpu or not available()):
        raise InputError(
            "8-bit activations need a CPU with AVX-512 BF16 and VNNI, and a C++ compiler; "
            f'choose weights="{options.weights}" alone.'
        )


def optimize(network: Network, options: Optimization) -> Passes:
    """Prepares a network for inference in place, as `SpatialVLA.optimize` says; returns the passes to use.

    Raises InputError where the device cannot do what is asked for.
    """
    check_optimization(options, network.device)
    on_gpu = network.device.type == "cuda"
    if network.config.quantization is not None and options.weights not in (None, "int4"):
        raise InputError(
            f"The checkpoint's weights are in 4 bits; load the one that it was made of for {options.weights}."
        )
    network.eval().requires_grad_(False)
    _optimize_decoder(network, options)
    _optimize_vision(network, options)
    if options.compile:
        (compile_decoder_layers if on_gpu else compile_vision)(network)
        return CompiledPasses(network, CudaGraphs() if on_gpu else None)
    return TwoStreamPasses(network) if on_gpu else Passes(network)


def _optimize_decoder(network: Network, options: Optimization) -> None:
    decoder = network.language_model
    kernels = serve(decoder.lm_head.weight)
    for layer in decoder.model.layers:
        fuse_layer(cast(Layer, layer), network.config.text, options.weights, options.activation_bits, kernels)
    if kernels:
        replace_norms(decoder)
        if fits_one_call(decoder.model):
            decoder.set_submodule("model", CPUDecoder(decoder.model))
    if _has_gpu_kernels(network):
        from spatialvla.model.fast.gpu_decoder import GPUDecoder  # Triton comes with PyTorch for GPUs only

        decoder.set_submodule("model", GPUDecoder(decoder.model))
    first = 0 if options.text_head else network.config.action_token_begin_idx
    decoder.set_submodule("lm_head", ActionHead(decoder.lm_head, network.config.grammar, first))


def _has_gpu_kernels(network: Network) -> bool:
    text, layers = network.config.text, network.language_model.model.layers
    if any(isinstance(part, FourBitLinear) for part in layers.modules()):
        return False
    groups = text.num_attention_heads // text.num_key_value_heads
    return serve_on_gpu(network.language_model.lm_head.weight) and groups.bit_count() == 1


def _optimize_vision(network: Network, options: Optimization) -> None:
    towers: list[nn.Module] = [network.vision_tower]
    if network.config.use_vision_zoe:
        network.vision_zoe_model.keep_position_bias()
        towers.append(network.vision_zoe_model)
    for tower in towers:
        replace_linears(tower, "int8" if options.activations else None, options.activation_bits)
        speed_up(tower)
    if not network.config.use_vision_zoe:
        return
    if network.device.type == "cuda" or not options.compile:
        replace_maps(network.vision_zoe_model)


@torch.no_grad()
def warm_up(
    passes: Passes, batch_size: int, text_tokens: int, depth: bool = False, drafts: bool = False
) -> None:
    """Runs once what batches of this size will need, so that the first of them does not wait for it.

    All cameras and the state are there. text_tokens: of the prompts, behind these; they are padded to the
    multiple that the passes like. depth: whether the batches bring some. drafts: whether they come with drafts,
    which takes passes of more widths.
    """
    network = passes.network
    config, chunk = network.config, 3 * network.config.action_chunk_size
    multiple = passes.prompt_multiple
    text = -(-text_tokens // multiple) * multiple
    views = len(config.cameras)
    in_front = views * config.image_token_num + (config.state_size > 0)
    image = torch.full((batch_size, in_front), config.image_token_index)
    ids = torch.cat([image, torch.full((batch_size, text), config.bos_token_id)], dim=1)
    side = config.image_size
    batch = Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        pixel_values=torch.full((views * batch_size, 3, side, side), 0.5),
        intrinsics=torch.tensor([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1.0]]).repeat(
            views * batch_size, 1, 1
        ),
        depth=torch.ones(views * batch_size, side, side) if depth else None,
        extrinsics=torch.eye(4).repeat(views * batch_size, 1, 1) if config.needs_extrinsics else None,
        state=torch.zeros(batch_size, config.state_size) if config.state_size else None,
    ).to(network.device)
    ids = decode(passes, batch).ids
    if not drafts:
        return
    decode(passes, batch, draft_ids=ids)
    layout = passes.layout(batch.attention_mask, chunk - 1)
    cache = passes.cache(*layout.real_BS.shape)
    slots = torch.arange(layout.prompt, layout.prompt + chunk, device=network.device)
    for begin in range(0, chunk, 3):
        passes.next_ids(ids[:, begin:-1], slots[begin:-1], layout, cache, (begin + 1) % 3)
