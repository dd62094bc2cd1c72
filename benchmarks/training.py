"""Samples a second of `nano`'s training step and of its vision stage, as written and made fast, beside their floor.

    python benchmarks/training.py [--batch-size 16] [--threads 2] [--rounds 10] [--compile]

The ways take turns in one process. The floor is what the matrix products alone would take at the speed that a large
one reaches in the same rounds. CPU time is printed beside wall time, because on a shared machine only the first tells
what the code needs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from spatialvla.batch import Batch
from spatialvla.common.cpu import tune_cpu
from spatialvla.data.augmentation import Augmentation, Views
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.presets import preset
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.optimizer import build_optimizer
from spatialvla.training.options import Precision
from spatialvla.training.precision import autocast, computes_bfloat16
from spatialvla.training.recipes import nano
from spatialvla.training.start.speed import speed_up
from spatialvla.training.start.trainable import select_trainable
from timing import Times, wait

PROMPT_TOKENS = 18
SIDE = 2048
"""Of the matrices whose product tells how fast the machine multiplies."""

Loss = Callable[[SpatialVLA], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--compile", action="store_true", help="also with compiled layers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_cpu()
    device, network = torch.device(options.device), preset("nano")
    batch = random_batch(network, options.batch_size)
    on_device = batch.to(device)
    losses: dict[str, Loss] = {
        "step": lambda model: model.training_loss(on_device).loss,
        "vision stage": lambda model: model.image_features(on_device).float().square().mean(),
    }
    ways: dict[tuple[str, str], Callable[[], object]] = {}
    flops: dict[str, float] = {}
    torch.manual_seed(0)
    written = SpatialVLA(network)
    select_trainable(written, "full", text_embeddings=True)
    for what, loss in losses.items():
        before = all_positions(on_device) if what == "step" else loss
        ways[what, "as written"] = step(deepcopied(written, device), before, options.precision)
        for compiled in (False, True)[: 1 + options.compile]:
            model = deepcopied(written, device)
            speed_up(model, options.precision, compiled)
            way = "compiled" if compiled else "faster parts"
            ways[what, way] = step(model, loss, options.precision)
        with FlopCounterMode(display=False) as counter:
            step(deepcopied(written, device), loss, options.precision)()
        flops[what] = float(counter.get_total_flops())
    measured = {name: Times() for name in ways}
    dtype = torch.bfloat16 if computes_bfloat16(options.precision, device) else torch.float32
    square = torch.rand(SIDE, SIDE, device=device).to(dtype)
    products, feed = Times(), Times()
    views = views_of(batch)
    for work in ways.values():
        work()
    for _ in range(options.rounds):
        for name, work in ways.items():
            measured[name].run(work, device)
        products.run(lambda: square @ square, device)
        feed.run(lambda: Augmentation()(views, network.image_size, np.random.default_rng(0)))
    wait(device)
    peak = 2 * SIDE**3 / min(products.cpu if device.type == "cpu" else products.wall)
    told = f"{options.threads} threads, batches of {options.batch_size}, products in {dtype}"
    print(f"{told}: {peak / 1e9:.0f} GFLOP/s a second of computing")
    print(f"{'':28} samples/s   CPU ms a sample   of it floor")
    for (what, way), times in measured.items():
        cpu = statistics.median(times.cpu)
        speed = options.batch_size / times.median
        share = flops[what] / peak / (cpu if device.type == "cpu" else times.median)
        each = 1e3 * cpu / options.batch_size
        print(f"{what + ', ' + way:28} {speed:9.1f} {each:17.2f} {share:13.0%}")
    print(f"{'augmentation':28} {'':9} {1e3 * statistics.median(feed.cpu) / options.batch_size:17.2f}")


def deepcopied(model: SpatialVLA, device: torch.device) -> SpatialVLA:
    return deepcopy(model).to(device).train()


def all_positions(batch: Batch) -> Loss:
    """The loss with a last layer that computes all tokens, as `SpatialVLA.forward` does."""
    assert batch.labels is not None
    targets = batch.labels[:, 1:]

    def loss(model: SpatialVLA) -> torch.Tensor:
        hidden = model.hidden_states(batch, "prefix")
        return F.cross_entropy(
            model.language_model.logits(hidden[:, :-1][targets >= 0]), targets[targets >= 0]
        )

    return loss


def step(model: SpatialVLA, loss: Loss, precision: Precision) -> Callable[[], None]:
    """Forward, backward and the optimizer."""
    optimizer = build_optimizer(model, nano())

    def run() -> None:
        with autocast(precision, model.device):
            value = loss(model)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def views_of(batch: Batch) -> Views:
    assert batch.depth is not None
    images = np.random.default_rng(0).integers(0, 256, (len(batch), 128, 128, 3), dtype=np.uint8)
    return Views(images, batch.intrinsics.double().numpy(), batch.depth.numpy())


def random_batch(network: SpatialVLAConfig, size: int) -> Batch:
    images = torch.full((size, network.image_token_num), network.image_token_index)
    prompt = torch.randint(5, network.image_token_index + 100, (size, PROMPT_TOKENS)).clamp(min=5)
    actions = torch.cat(
        [
            torch.randint(kind.start, kind.stop, (size, 1))
            for kind in network.grammar * network.action_chunk_size
        ],
        dim=1,
    )
    ids = torch.cat([images, prompt, actions, torch.full((size, 1), network.eos_token_id)], dim=1)
    labels = ids.clone()
    labels[:, : network.image_token_num + PROMPT_TOKENS] = -100
    side = network.image_size
    camera = torch.tensor([[1.2 * side, 0, side / 2], [0, 1.2 * side, side / 2], [0, 0, 1.0]])
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        pixel_values=torch.rand(size, 3, side, side),
        intrinsics=camera.expand(size, 3, 3),
        labels=labels,
        depth=torch.rand(size, side, side) + 0.5,
    )


if __name__ == "__main__":
    main()
