"""Memory per GPU and throughput of the 4 B model under FSDP2, computed from its real configuration on meta tensors.

    python benchmarks/sizing.py [--batch 32] [--mfu 0.4] [--peak 989]

Nothing is measured: sizes are those of the tensors that exist, FLOPs those of the operators that run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from spatialvla.kernels.products import GROUP
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.gemma2 import Layer, attention_bias, rotary_angles
from spatialvla.model.lora import add_lora
from spatialvla.model.presets import preset
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.start.trainable import narrow_frozen, select_trainable

GPUS = (1, 2, 4, 8, 16, 32, 64)
PROMPT = 24
"""Tokens of <bos> and a typical instruction beside those of the image."""

GB = 1e9
BF16, FP32 = 2, 4


@dataclass(frozen=True)
class Part:
    """Of one sample, forward: floating-point operations, bytes kept for the backward pass, bytes of the input."""

    flops: float = 0
    kept: float = 0
    inputs: float = 0

    def times(self, count: int) -> Part:
        return Part(self.flops * count, self.kept * count, self.inputs * count)


def part(module: nn.Module, run: Callable[[], torch.Tensor], inputs: torch.Tensor) -> Part:
    """Runs once on meta tensors; weights are no activations."""
    weights = {id(parameter) for parameter in module.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in weights:
            kept[id(base)] = base
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return Part(counter.get_total_flops(), sum(tensor.nbytes for tensor in kept.values()), inputs.nbytes)


@dataclass(frozen=True)
class Model:
    """Counts of parameters and the costs of one sample.

    whole: parameters of ZoeDepth, kept on each rank. root: those gathered for a whole step; unit: of the
    largest layer. siglip, decoder: all layers of each.
    """

    total: int
    trained: int
    whole: int
    root: int
    unit: int
    siglip: Part
    decoder: Part
    head: Part
    depth_flops: float
    siglip_layer: Part
    decoder_layer: Part


def measure(config: SpatialVLAConfig) -> Model:
    with torch.device("meta"):
        model = SpatialVLA.from_config(config, dtype=torch.bfloat16)
    text = config.text
    model.language_model.model.embed_tokens.requires_grad_(False)
    count = {name: parameter.numel() for name, parameter in model.named_parameters()}
    whole = sum(n for name, n in count.items() if name.startswith("vision_zoe_model."))
    layers = [m for m in model.modules() if isinstance(m, Layer | SiglipEncoderLayer)]
    in_layers = sum(p.numel() for layer in layers for p in layer.parameters())
    embeddings = model.language_model.model.embed_tokens.weight.numel()

    with torch.device("meta"):
        labels = 3 * config.action_chunk_size + 1
        tokens = config.image_token_num + PROMPT + labels
        x = torch.empty(1, tokens, text.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        rotary = rotary_angles(torch.ones(1, tokens), text.head_dim, text.rope_theta, torch.bfloat16)
        bias = attention_bias(torch.ones(1, tokens, tokens, dtype=torch.bool), torch.bfloat16)
        block = model.language_model.model.layers[0]
        decoder = part(block, lambda: block(x, rotary, bias, None), x)
        image = torch.empty(
            1, config.image_token_num, config.siglip.hidden_size, dtype=torch.bfloat16, requires_grad=True
        )
        tower = next(m for m in layers if isinstance(m, SiglipEncoderLayer))
        siglip = part(tower, lambda: tower(image, None), image)
        hidden = torch.empty(labels, text.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        ids = torch.zeros(labels, dtype=torch.long)
        head = part(
            model.language_model,
            lambda: nn.functional.cross_entropy(model.language_model.logits(hidden), ids),
            hidden,
        )
        zoe = model.vision_zoe_model
        side = zoe.input_size
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            # Backbone and neck; which of the small metric heads runs depends on the image.
            maps = zoe.backbone(torch.empty(1, 3, side, side, dtype=torch.bfloat16)).feature_maps
            grid = side // config.zoe.backbone_config.patch_size
            zoe.neck(maps, grid, grid)
    return Model(
        total=sum(count.values()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        whole=whole,
        root=sum(count.values()) - whole - in_layers - embeddings,
        unit=max(sum(p.numel() for p in layer.parameters()) for layer in layers),
        siglip=siglip.times(config.siglip.num_hidden_layers),
        decoder=decoder.times(text.num_hidden_layers),
        head=head,
        depth_flops=counter.get_total_flops(),
        siglip_layer=siglip,
        decoder_layer=decoder,
    )


def states(model: Model, gpus: int) -> float:
    """Bytes a GPU of what lasts: float32 master weights, gradients and Adam's two moments, in shards; ZoeDepth."""
    sharded = FP32 * (model.total - model.whole) + 3 * FP32 * model.trained
    return sharded / gpus + FP32 * model.whole


def gathered(model: Model) -> float:
    """Bytes of whole bf16 weights and gradients in flight: the root's, two layers' weights and one's gradients.

    A layer's gradients are also summed in float32.
    """
    return BF16 * 2 * model.root + FP32 * model.root + (BF16 * 3 + FP32) * model.unit


def copies(model: Model) -> float:
    """Bytes of the bf16 weights that autocast keeps through a step of one process."""
    return BF16 * model.trained


def activations(model: Model, recompute: bool) -> float:
    """Bytes of one sample."""
    if not recompute:
        return model.siglip.kept + model.decoder.kept + model.head.kept
    again = max(model.siglip_layer.kept, model.decoder_layer.kept)
    return model.siglip.inputs + model.decoder.inputs + again + model.head.kept


def flops(model: Model, recompute: bool, depth: bool) -> float:
    """Of one training sample: the backward pass costs twice the forward pass, and recomputing a layer once more."""
    layers = model.siglip.flops + model.decoder.flops
    return (4 if recompute else 3) * layers + 3 * model.head.flops + depth * model.depth_flops


@dataclass(frozen=True)
class FineTuning:
    """One way of fine-tuning in one process. kept: bytes of the weights. trained: parameters."""

    name: str
    kept: float
    trained: int

    def state(self) -> float:
        """Bytes of what lasts: weights, and float32 gradients and Adam's two moments of what is trained."""
        return self.kept + 3 * FP32 * self.trained


def ways_of_fine_tuning(config: SpatialVLAConfig, model: Model) -> list[FineTuning]:
    """All weights; adapters on weights in float32, in bfloat16, and with the decoder's layers in 4 bits."""
    with torch.device("meta"):
        adapted = SpatialVLA.from_config(config)
        add_lora(adapted, "base")
    select_trainable(adapted, "lora")
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    narrow_frozen(adapted)
    layers = adapted.language_model.model.layers
    matrices = [
        part.weight
        for part in layers.modules()
        if isinstance(part, nn.Linear) and not part.weight.requires_grad
    ]
    numbers = sum(matrix.numel() for matrix in matrices)
    # As `FourBits` keeps them: half a byte each, and 4 bytes for 128.
    four_bits = sum(len(matrix) * -(-matrix.shape[1] // GROUP) * (GROUP // 2 + 4) for matrix in matrices)
    narrow = sum(p.nbytes for p in adapted.parameters())
    return [
        FineTuning("all weights", FP32 * model.total, model.trained),
        FineTuning("adapters, base in float32", FP32 * (model.total + trained), trained),
        FineTuning("adapters", narrow, trained),
        FineTuning("adapters on 4 bits", narrow - BF16 * numbers + four_bits, trained),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="samples a GPU and pass")
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="share of the peak that is reached: an assumption"
    )
    parser.add_argument(
        "--peak", type=float, default=989, help="dense bf16 TFLOP/s of a GPU; 989 is an H100 SXM"
    )
    options = parser.parse_args()
    model = measure(preset("4b"))
    print(
        f"{model.total / 1e9:.2f} B parameters: {model.trained / 1e9:.2f} B trained, {model.whole / 1e9:.2f} B of "
        f"ZoeDepth whole on each GPU; in flight {gathered(model) / GB:.1f} GB"
    )
    kept, again = (activations(model, recompute) / GB for recompute in (False, True))
    print(f"activations of a sample: {kept:.2f} GB, recomputed {again:.3f} GB")
    print(f"\n| GPUs | state | + batch {options.batch}, recomputed | + batch {options.batch}, kept |")
    print("|-----:|------:|------:|------:|")
    for gpus in GPUS:
        base = (states(model, gpus) + (gathered(model) if gpus > 1 else copies(model))) / GB
        sizes = [base + options.batch * each for each in (again, kept)]
        print(f"| {gpus} | {states(model, gpus) / GB:.1f} | {sizes[0]:.0f} | {sizes[1]:.0f} |")
    print("\n| what learns | trained | weights | state | + 1 sample | + 8 samples | + 32 samples |")
    print("|:--|--:|--:|--:|--:|--:|--:|")
    for way in ways_of_fine_tuning(preset("4b"), model):
        # Autocast keeps a bf16 copy of each float32 weight that it multiplies with until the backward pass is through.
        base = way.state() + (copies(model) if "base" in way.name or way.name == "all weights" else 0)
        sizes = " | ".join(f"{(base / GB + count * again):.1f}" for count in (1, 8, 32))
        print(
            f"| {way.name} | {way.trained / 1e6:,.0f} M | {way.kept / GB:.1f} | {way.state() / GB:.1f} | {sizes} |"
        )
    print(f"\nTFLOPs a sample; samples/s a GPU at {options.mfu:.0%} of {options.peak:.0f} TFLOP/s")
    for recompute in (True, False):
        for depth in (True, False):
            total = flops(model, recompute, depth)
            label = f"{'recomputed' if recompute else 'kept'}, depth {'estimated' if depth else 'given'}"
            print(
                f"{label}: {total / 1e12:.2f} TFLOPs, {options.mfu * options.peak * 1e12 / total:.0f} samples/s"
            )


if __name__ == "__main__":
    main()
