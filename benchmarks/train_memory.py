"""Peak memory and time of a training step: loss at label positions against all logits, with and without recomputing.

    python benchmarks/train_memory.py [--batch 4] [--steps 3] [--json FILE]

The network has the published vocabulary of 265,347 entries and the published number of image tokens, but
small layers. Each way runs in a process of its own, whose peak resident memory counts from before the first
step, and with the same weights and batch; the losses must agree. CPU seconds are counted, which other work on
the machine changes less than the time that passes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from spatialvla import Batch, SpatialVLA, SpatialVLAConfig
from spatialvla.batch import IGNORED
from spatialvla.model.presets import preset
from spatialvla.training.start.trainable import select_trainable

WAYS = {
    "all logits": (False, False),
    "all logits, recomputing": (False, True),
    "logits at labels": (True, False),
    "logits at labels, recomputing": (True, True),
}
PROMPT, ACTIONS = 20, 13
"""Tokens of <bos> and the instruction, and of 4 steps with <eos>."""


def network(layers: int, width: int) -> SpatialVLAConfig:
    """The published vocabulary and image size, with few and narrow layers and nano's depth estimator."""
    published, small = preset("4b"), preset("nano")
    text = replace(
        published.text,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        head_dim=width // 8,
        query_pre_attn_scalar=width // 8,
    )
    vision = {
        **published.vision,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": 8,
        "num_hidden_layers": layers,
    }
    return published.replace(text=text, vision=vision, depth=small.depth, depth_padding=0)


def make_batch(config: SpatialVLAConfig, rows: int) -> Batch:
    length = config.image_token_num + PROMPT + ACTIONS
    ids = torch.randint(5, 1000, (rows, length))
    ids[:, : config.image_token_num] = config.image_token_index
    for step in range(ACTIONS - 1):
        kind = config.grammar[step % 3]
        ids[:, step - ACTIONS] = torch.randint(kind.start, kind.stop, (rows,))
    ids[:, -1] = config.eos_token_id
    labels = ids.clone()
    labels[:, :-ACTIONS] = IGNORED
    size = config.image_size
    intrinsics = torch.tensor([[218.0, 0, size / 2], [0, 291.0, size / 2], [0, 0, 1]]).expand(rows, 3, 3)
    pixels, depth = torch.rand(rows, 3, size, size), 1 + torch.rand(rows, size, size)
    return Batch(ids, torch.ones_like(ids, dtype=torch.bool), pixels, intrinsics, labels, depth)


def peak() -> int:
    """Bytes of resident memory at the process's peak so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(way: str, rows: int, steps: int, layers: int, width: int) -> dict[str, float]:
    """Peak memory beyond weights and batch, and the cheapest step's CPU seconds.

    A step is loss and gradients.
    """
    at_labels, recompute = WAYS[way]
    torch.manual_seed(0)
    config = network(layers, width)
    model = SpatialVLA.from_config(config)
    select_trainable(model, "full")
    model.train().checkpoint_activations(recompute)
    batch = make_batch(config, rows)
    before, seconds, loss = peak(), [], torch.tensor(0.0)
    for _ in range(steps):
        start = time.process_time()
        output = model.training_loss(batch) if at_labels else model(batch)
        assert output.loss is not None
        loss = output.loss
        loss.backward()
        seconds.append(time.process_time() - start)
        del output
        model.zero_grad()
    return {"loss": float(loss), "weights": before, "peak": peak() - before, "seconds": min(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [options.batch, options.steps, options.layers, options.width]
    if options.way:
        print(json.dumps(measure(options.way, *sizes)))
        return
    results = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{way}: {run.stderr}")
        results[way] = json.loads(run.stdout.splitlines()[-1])
    losses = [result["loss"] for result in results.values()]
    assert max(losses) - min(losses) < 1e-3, losses
    first = results["all logits"]
    print(
        f"batch {options.batch}, {options.layers} layers of {options.width}; before: {first['weights'] / 1e9:.1f} GB"
    )
    for way, result in results.items():
        print(
            f"{way:30} {result['peak'] / 1e9:6.2f} GB ({result['peak'] / first['peak']:.2f})"
            f" {result['seconds']:6.2f} CPU s ({result['seconds'] / first['seconds']:.2f})"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
