"""Time of a training step of `nano` by part, and of its depth estimator.

    python benchmarks/training.py [--batch-size 32] [--threads 2] [--steps 10] [--compile]

CPU time is printed beside wall time, because on a shared machine only the first tells what the code needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch.optim import Optimizer

from spatialvla.batch import Batch
from spatialvla.common.cpu import tune_cpu
from spatialvla.data.augmentation import Augmentation, Views
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.fast.compiled import compile_layers
from spatialvla.model.presets import preset
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.depth_estimator import depth_loss, untrained_estimator
from spatialvla.training.optimizer import build_optimizer
from spatialvla.training.recipes import nano
from timing import Times

PROMPT_TOKENS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu", help="cuda: in bfloat16 where autocast has it")
    parser.add_argument("--compile", action="store_true", help="also with compiled layers, in turns")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_cpu()
    device = torch.device(options.device)
    network = preset("nano")
    model = SpatialVLA(network).train().to(device)
    batch = random_batch(network, options.batch_size)
    on_host, batch = batch, batch.to(device)
    optimizer = build_optimizer(model, nano())

    def step(model: SpatialVLA = model, optimizer: Optimizer = optimizer) -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            loss = model.training_loss(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    views = Views(
        np.random.default_rng(0).integers(0, 256, (options.batch_size, 128, 128, 3), dtype=np.uint8),
        on_host.intrinsics.double().numpy(),
        on_host.depth.numpy() if on_host.depth is not None else None,
    )
    estimator = untrained_estimator(network).to(device)
    parts: dict[str, Callable[[], object]] = {
        "training step": step,
        "augmentation": lambda: Augmentation()(views, network.image_size, np.random.default_rng(0)),
        "depth training step": lambda: depth_loss(
            estimator.estimate(batch.pixel_values), batch.depth
        ).backward(),
        "depth estimate": torch.no_grad()(lambda: estimator.estimate(batch.pixel_values)),
    }
    if options.compile:
        compiled = SpatialVLA(network).train().to(device)
        compile_layers(compiled)
        its = build_optimizer(compiled, nano())
        parts |= {"compiled step": lambda: step(compiled, its), "training step again": step}
    for name, part in parts.items():
        part()
        times, samples = Times(), options.steps * options.batch_size
        for _ in range(options.steps):
            times.run(part, device)
        speed, cpu = samples / sum(times.wall), 1e3 * sum(times.cpu) / samples
        print(f"{name:20} {speed:8.1f} samples/s   {cpu:7.2f} ms of CPU a sample")


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
