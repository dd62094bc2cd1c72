"""Memory and time of a fine-tuning step, and its checkpoint: all weights, adapters, and adapters on 4 bits.

    python benchmarks/finetune_memory.py [--layers 3] [--batch 2] [--steps 3]

The network has the widths and the image tokens of the 4 B model, with fewer layers, a small vocabulary and nano's depth
estimator. Each way runs in a process of its own and starts from the same checkpoint, as a run on a CPU does; its peak
counts from the end of loading on. CPU seconds are counted, which other work changes less than the time that passes;
of writing a checkpoint all seconds until it is on the disk, once without and once with what the base's files hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from spatialvla import SpatialVLA, SpatialVLAConfig
from spatialvla.model.lora import add_lora, base_names
from spatialvla.model.lora_options import LoraOptions
from spatialvla.model.presets import preset
from spatialvla.model.quantization.network import quantize
from spatialvla.model.quantization_entry import Quantization
from spatialvla.training.checkpoints.checkpointer import Checkpointer, Moment
from spatialvla.training.checkpoints.tensors import Trained
from spatialvla.training.optimizer import build_optimizer
from spatialvla.training.recipes import finetune
from spatialvla.training.start.speed import speed_up
from spatialvla.training.start.trainable import narrow_frozen, select_trainable
from train_memory import make_batch

WAYS = ("full", "lora, float32 base", "lora", "lora on 4 bits")
WORDS = 4096


def network(layers: int) -> SpatialVLAConfig:
    published, small = preset("4b"), preset("nano")
    text = replace(published.text, vocab_size=WORDS + published.spatial_token_num, num_hidden_layers=layers)
    vision = {**published.vision, "num_hidden_layers": layers}
    return published.replace(
        text=text,
        vision=vision,
        depth=small.depth,
        depth_padding=0,
        image_token_index=WORDS - 1,
        action_token_begin_idx=WORDS,
    )


def prepare(folder: Path, layers: int) -> None:
    torch.manual_seed(0)
    model = SpatialVLA.from_config(network(layers), dtype=torch.bfloat16)
    model.save_pretrained(folder / "full")
    quantize(model, Quantization(text_head=True))
    model.save_pretrained(folder / "four_bits")


def resident(name: str) -> int:
    """Bytes of this process by the name in /proc: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(way: str, folder: Path, rows: int, steps: int) -> dict[str, float]:
    """Bytes at the end of loading and at the peak, beyond those of the libraries; the cheapest step's CPU seconds.

    Of a checkpoint, and of one with the base in it, the bytes and the fewest seconds.
    """
    libraries = resident("VmRSS")
    base = folder / ("four_bits" if "4 bits" in way else "full")
    model = SpatialVLA.from_pretrained(base)
    mode = "full" if way == "full" else "lora"
    if mode == "lora":
        add_lora(model, base, LoraOptions())
    select_trainable(model, "full" if way == "full" else "lora")
    if mode == "lora" and "float32" not in way:
        narrow_frozen(model)
    speed_up(model.train(), "bf16", compiled=False)
    model.checkpoint_activations()
    optimizer, batch = build_optimizer(model, finetune("lora")), make_batch(model.config, rows)
    loaded = resident("VmRSS") - libraries
    Path("/proc/self/clear_refs").write_text("5")
    seconds = []
    for _ in range(steps):
        began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.training_loss(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.process_time() - began)
    peak = resident("VmHWM") - libraries
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = {"loaded": loaded, "peak": peak, "seconds": min(seconds), "trained": trained}
    contents = {
        "own": Trained(model, optimizer, of_base=base_names(model)),
        "whole": Trained(model, optimizer),
    }
    for repeat in range(steps):
        for name, content in contents.items():
            began = time.monotonic()
            path = Checkpointer(folder / way / name, keep=1).save(content, Moment(repeat, 0.0, {}))
            took = time.monotonic() - began
            found[f"{name}_bytes"] = sum(file.stat().st_size for file in path.iterdir())
            found[f"{name}_seconds"] = min(found.get(f"{name}_seconds", took), took)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.folder, options.batch, options.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.layers)
        print("| what learns | trained | loaded | peak | CPU time of a step | checkpoint | with the base |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for way in WAYS:
            command = [sys.executable, __file__, *sys.argv[1:], "--way", way, "--folder", folder]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                sys.exit(f"{way}: {run.stderr}")
            found = json.loads(run.stdout.splitlines()[-1])
            print(
                f"| {way} | {found['trained'] / 1e6:.1f} M | {found['loaded'] / 1e9:.2f} GB | "
                f"{found['peak'] / 1e9:.2f} GB | {found['seconds']:.2f} s | "
                f"{found['own_bytes'] / 1e9:.2f} GB in {found['own_seconds']:.2f} s | "
                f"{found['whole_bytes'] / 1e9:.2f} GB in {found['whole_seconds']:.2f} s |"
            )


if __name__ == "__main__":
    main()
