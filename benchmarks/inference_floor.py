"""The least time that a chunk can take on this device, from what it can read and compute: for `inference.py`."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from spatialvla.batch import Batch
from spatialvla.kernels.library import available
from spatialvla.kernels.products import bf16_product, int8_product, pack_bf16, pack_int8
from spatialvla.model.fast.options import Optimization
from spatialvla.model.spatialvla import SpatialVLA
from timing import best_of

PROMPT_TOKENS = 16


class Speeds:
    """What a device can do, in the best of several ways; measured in every round, since others may share its memory.

    gpu_gb: of a GPU's memory are held for that.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, options: Optimization) -> None:
        self.device = device
        on_gpu = device.type == "cuda"
        large = torch.rand(2**30 if on_gpu else 2**27, device=device)
        self.bytes = large.nbytes
        self.reading: list[Callable[[], Any]] = [large.sum, large.max]
        rows, K, N = (8192 if on_gpu else 504), 4096, 8192
        self.operations = 2 * rows * K * N
        x, w = (torch.rand(size, K, device=device).to(dtype) for size in (rows, N))
        self.multiplying: list[Callable[[], Any]] = [lambda: F.linear(x, w)]
        self.gpu_gb = sum(part.nbytes for part in (large, x, w)) / 1e9 if on_gpu else 0.0
        if not on_gpu and available() and dtype == torch.bfloat16:
            half, packed = pack_bf16(w), large.view(torch.bfloat16).view(-1, 2048, 64, 2)
            self.reading.append(lambda: bf16_product(x[:1], packed, None, 64 * len(packed)))
            self.multiplying.append(lambda: bf16_product(x, half, None, N))
        if options.activations:
            eight = pack_int8(w)
            self.multiplying.append(lambda: int8_product(x, *eight, None, N, 8))
        self.bytes_per_second: list[float] = []
        self.flops: list[float] = []

    def measure(self) -> None:
        self.bytes_per_second.append(self.bytes / min(_best(way, self.device) for way in self.reading))
        self.flops.append(self.operations / min(_best(way, self.device) for way in self.multiplying))

    def median(self) -> dict[str, float]:
        return {name: statistics.median(getattr(self, name)) for name in ("bytes_per_second", "flops")}


def operations(model: SpatialVLA, batch: Batch) -> dict[str, float]:
    """Floating-point operations of depth and SigLIP, counted in one run of each."""
    counts = {}
    for stage, given in (("depth", batch), ("siglip", Batch(**{**vars(batch), "depth": model.depth(batch)}))):
        with FlopCounterMode(display=False) as counter:
            _ = model.depth(given) if stage == "depth" else model.encode_images(given)
        counts[stage] = float(counter.get_total_flops())
    return counts


def floors(
    model: SpatialVLA, rows: int, flops: dict[str, float], speeds: dict[str, float]
) -> dict[str, float]:
    """Seconds that a chunk's stages cannot beat: the slower of reading the weights and of computing."""
    weights = sum(part.numel() * part.element_size() for part in layers_of(model))
    head = model.config.text.hidden_size * model.dtype.itemsize
    heads = sum((rows_of.stop - rows_of.start) * head for rows_of in model.config.grammar)
    passes, steps = 3 * model.config.action_chunk_size - 1, model.config.action_chunk_size
    text = model.config.text
    heads_size = text.head_dim * (text.num_attention_heads + text.num_key_value_heads)
    numbers = text.num_hidden_layers * text.hidden_size * (2 * heads_size + 3 * text.intermediate_size)
    read = (passes * weights + steps * heads) / speeds["bytes_per_second"]
    compute = 2 * numbers * passes * rows / speeds["flops"]
    seconds = {stage: flops[stage] / speeds["flops"] for stage in ("depth", "siglip")}
    prompt = model.config.image_token_num + PROMPT_TOKENS
    seconds["prefill"] = max(
        2 * numbers * prompt * rows / speeds["flops"], weights / speeds["bytes_per_second"]
    )
    return {**seconds, "decode": max(read, compute)}


def layers_of(model: SpatialVLA) -> list[torch.Tensor]:
    layers = model.language_model.model.layers
    return [*layers.parameters(), *layers.buffers()]


def _best(work: Callable[[], Any], device: torch.device) -> float:
    work()
    return best_of(3, work, device)
