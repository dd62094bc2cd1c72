"""A loaded model, made fast for inference in place: fused, in fewer bits, compiled, its two vision towers at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from spatialvla.errors import InputError
from spatialvla.kernels.library import available, serve
from spatialvla.model.decoding.passes import Layout
from spatialvla.model.fast.compiled import CompiledPasses, CudaGraphs, compiled
from spatialvla.model.fast.decoder import fuse_head, fuse_layer, use_kernels
from spatialvla.model.fast.linear import DTYPES, EightBits, replace_linears
from spatialvla.model.fast.towers import speed_up
from spatialvla.model.fast.zoedepth import replace_maps
from spatialvla.model.gemma2 import Layer
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.model.weights import MAX_SHARD_SIZE
from spatialvla.types import Batch
from spatialvla.vision.depth import PerImageHeads
from spatialvla.vision.ego3d import patch_points

EIGHT_BITS: Mapping[str, tuple[EightBits, Literal["int8"] | None]] = {
    "int8": ("int8", None),
    "w8a8": ("int8", "int8"),
    "fp8": ("fp8", None),
}
"""Weights and activations of an `Optimization` by the usual names of precisions that have 8 bits."""


@dataclass(frozen=True)
class Optimization:
    """How a model is prepared for inference.

    weights: "int8" or "fp8" (CUDA only) keep the decoder's weights in 8 bits with scales; None leaves them as they were
    loaded. The head, the embeddings and the vision towers stay as they are.
    activations: "int8" lets a CPU multiply 8 bits with 8 bits in the decoder and the vision towers, with scales that
    follow the activations: fastest, and less exact. Needs weights="int8" and AVX-512 with BF16 and VNNI.
    compile: let torch compile vision and passes, and on a GPU record CUDA graphs. That takes minutes for all shapes of
    `batch_sizes` x `text_tokens`, behind the image, when the model is optimised, and again for any other when it first
    comes.
    drafts: compile the passes of speculation, too, which come in more widths.
    text_head: keep the head's rows of text, without which only actions can be generated: 1.2 GB of the 4 B model.
    """

    weights: EightBits | None = None
    activations: Literal["int8"] | None = None
    compile: bool = False
    batch_sizes: tuple[int, ...] = (1,)
    text_tokens: tuple[int, ...] = (16, 32)
    drafts: bool = True
    text_head: bool = True

    def __post_init__(self) -> None:
        if self.weights not in (None, *DTYPES):
            raise InputError(f"Unknown weights {self.weights!r}; choose int8, fp8 or None.")
        if self.activations not in (None, "int8"):
            raise InputError(f"Unknown activations {self.activations!r}; choose int8 or None.")
        if self.activations and self.weights != "int8":
            raise InputError("Activations in 8 bits go with weights in int8; choose both, or neither.")

    @property
    def eight_bits(self) -> str | None:
        """What is in 8 bits, by its name in `EIGHT_BITS`; None for nothing."""
        kept = (self.weights, self.activations)
        return next((name for name, bits in EIGHT_BITS.items() if bits == kept), None)


class OptimizedSpatialVLA(SpatialVLA):
    """A model that `optimize` has prepared. Its weights are no longer in the published layout."""

    optimization: Optimization
    graphs: CudaGraphs | None
    side: torch.cuda.Stream

    def save_pretrained(self, path: str | Path, *, max_shard_size: int | str = MAX_SHARD_SIZE) -> None:
        raise InputError(
            "This model was optimised for inference and cannot be saved; load it again without optimize= to save it."
        )

    def train(self, mode: bool = True) -> OptimizedSpatialVLA:
        if mode:
            raise InputError(
                "This model was optimised for inference and cannot be trained; load it again without optimize=."
            )
        super().train(False)
        return self

    def embed(self, batch: Batch) -> torch.Tensor:
        graphs = self.graphs
        if graphs is None:
            return super().embed(batch)
        if batch.depth is None and self.config.use_vision_zoe and self._depth_source:
            # A depth source from elsewhere may do anything; it runs before, outside the graph.
            batch = Batch(**{**vars(batch), "depth": self.depth(batch)})
        given = {name: value for name, value in vars(batch).items() if value is not None}
        embed = super().embed
        return graphs.run(
            ("embed", *given),
            lambda *values: embed(Batch(**dict(zip(given, values, strict=True)))),
            *given.values(),
        )

    def image_features(self, batch: Batch) -> torch.Tensor:
        """As of `SpatialVLA`; on a GPU depth and SigLIP are computed at the same time."""
        if self.device.type != "cuda" or not self.config.use_vision_zoe:
            return super().image_features(batch)
        here, side = torch.cuda.current_stream(), self.side
        side.wait_stream(here)
        with torch.cuda.stream(side):
            depth = self.depth(batch)
            points = patch_points(
                depth, batch.intrinsics, self.config.patch_size, self.config.ego3d_patch_reso
            )
            places = self.position_embedding_3d(points)
        pixels = (batch.pixel_values * 2 - 1).to(self.dtype)
        features = self.vision_tower(pixel_values=pixels).last_hidden_state
        here.wait_stream(side)
        return features + places


def optimize(model: SpatialVLA, options: Optimization = Optimization()) -> OptimizedSpatialVLA:
    """Prepares a model for inference in place and returns it. It can neither be saved nor trained afterwards.

    In float32 the same actions come out; in bfloat16 products round differently than before, and in 8 bits actions
    change a little (docs/measurements/inference.md says how much).
    Raises InputError where the device cannot do what is asked for, and for a model that was optimised before.
    """
    if isinstance(model, OptimizedSpatialVLA):
        raise InputError("This model has been optimised already.")
    on_gpu = model.device.type == "cuda"
    if options.weights == "fp8" and not on_gpu:
        raise InputError("fp8 weights need a GPU; choose int8 on a CPU.")
    if options.activations and (on_gpu or not available()):
        raise InputError(
            "8-bit activations need a CPU with AVX-512 BF16 and VNNI, and a C++ compiler; "
            'choose weights="int8" alone.'
        )
    activation_bits = 8 if options.activations else 16
    model.eval().requires_grad_(False)
    for layer in model.language_model.model.layers:
        fuse_layer(cast(Layer, layer), options.weights, activation_bits)
    if serve(model.language_model.lm_head.weight):
        use_kernels(model.language_model)
    first = 0 if options.text_head else model.config.action_token_begin_idx
    fuse_head(model.language_model, model.config.grammar, first)
    towers: list[nn.Module] = [model.vision_tower]
    if model.config.use_vision_zoe:
        model.vision_zoe_model.keep_position_bias()
        towers.append(model.vision_zoe_model)
    for tower in towers:
        replace_linears(tower, options.weights if options.activations else None, activation_bits)
        speed_up(tower)
    if model.config.use_vision_zoe and not options.compile:
        replace_maps(model.vision_zoe_model)
    model.__class__ = OptimizedSpatialVLA
    assert isinstance(model, OptimizedSpatialVLA)
    model.optimization = options
    model.graphs = None
    if on_gpu:
        model.side = torch.cuda.Stream(model.device)
    if options.compile:
        _compile(model)
        for rows, tokens in product(options.batch_sizes, options.text_tokens):
            warm_up(model, rows, tokens, drafts=options.drafts)
    return model


@torch.no_grad()
def warm_up(
    model: SpatialVLA, batch_size: int, text_tokens: int, depth: bool = False, drafts: bool = False
) -> None:
    """Runs everything once that batches of this size will need, so that the first of them does not wait for it.

    text_tokens: of the prompts, behind the image; they are padded to the multiple that the passes like. depth: whether
    the batches bring some. drafts: whether they come with drafts, which takes passes of more widths.
    """
    config, chunk = model.config, 3 * model.config.action_chunk_size
    multiple = model.passes.prompt_multiple
    text = -(-text_tokens // multiple) * multiple
    image = torch.full((batch_size, config.image_token_num), config.image_token_index)
    ids = torch.cat([image, torch.full((batch_size, text), config.bos_token_id)], dim=1)
    side = config.image_size
    batch = Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        pixel_values=torch.full((batch_size, 3, side, side), 0.5),
        intrinsics=torch.tensor([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1.0]]).repeat(
            batch_size, 1, 1
        ),
        depth=torch.ones(batch_size, side, side) if depth else None,
    ).to(model.device)
    ids = model.decode(batch).ids
    if not drafts:
        return
    model.decode(batch, draft_ids=ids)
    layout = Layout.behind(batch.attention_mask, chunk - 1)
    cache = model.passes.cache(*layout.real_BS.shape)
    slots = torch.arange(layout.prompt, layout.prompt + chunk, device=model.device)
    for begin in range(0, chunk, 3):
        model.passes.next_ids(ids[:, begin:-1], slots[begin:-1], layout, cache, (begin + 1) % 3)


def _compile(model: OptimizedSpatialVLA) -> None:
    model.graphs = CudaGraphs() if model.device.type == "cuda" else None
    model.passes = CompiledPasses(model, model.graphs)
    _compile_forward(model.vision_tower, model.device)
    if model.config.use_vision_zoe:
        depth = model.vision_zoe_model
        if isinstance(depth.metric_head, PerImageHeads):
            depth.metric_head.without_waiting = True
        depth.__dict__["estimate"] = compiled(depth.estimate, model.device)


def _compile_forward(module: nn.Module, device: torch.device) -> None:
    module.__dict__["forward"] = compiled(module.forward, device)
