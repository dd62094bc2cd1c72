"""What our kernels gain in the vision towers of the 4 B model on a CPU: ways side by side, as a Markdown table.

    python benchmarks/vision_kernels.py --threads 2 --rounds 5

Random weights in bfloat16, one image. Each way adds a step to the one before it; all take turns in one
process, so that a busy machine disturbs all of them, and the best of the rounds counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import SiglipVisionModel

from spatialvla.common.cpu import tune_cpu
from spatialvla.model.fast.linear import replace_linears
from spatialvla.model.fast.towers import speed_up
from spatialvla.model.fast.zoedepth import replace_maps
from spatialvla.model.presets import preset
from spatialvla.vision.depth import ZoeDepth
from timing import in_turns

Step = Callable[[Any], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = preset("4b")
    pixels = torch.rand(1, 3, config.image_size, config.image_size)

    def estimate(tower: nn.Module) -> torch.Tensor:
        return cast(ZoeDepth, tower).estimate(pixels)

    def see(tower: nn.Module) -> torch.Tensor:
        return cast(torch.Tensor, tower(pixel_values=(pixels * 2 - 1).bfloat16()).last_hidden_state)

    with torch.no_grad():
        depth = ZoeDepth(config.zoe, config.depth_padding).bfloat16()
        depth.keep_position_bias()
        shared: dict[str, Step] = {"products": replace_linears, "attention": speed_up}
        compare("ZoeDepth", depth, {**shared, "maps": replace_maps}, estimate, options.rounds)
        siglip = SiglipVisionModel(config.siglip).bfloat16().eval()
        compare("SigLIP", siglip, shared, see, options.rounds)


def compare(
    name: str, tower: nn.Module, steps: dict[str, Step], run: Callable[[nn.Module], torch.Tensor], rounds: int
) -> None:
    ways = {"PyTorch": partial(run, tower)}
    for step, change in steps.items():
        tower = deepcopy(tower)
        change(tower)
        ways[step] = partial(run, tower)
    print(f"\n| {name} | ms, best | median | saves |\n|---|---:|---:|---:|")
    before = None
    for way, times in in_turns(ways, rounds).items():
        gain = "" if before is None else f"{1e3 * (before - times.best):.0f}"
        label = way if before is None else f"and our {way}"
        print(f"| {label} | {1e3 * times.best:.0f} | {1e3 * times.median:.0f} | {gain} |")
        before = times.best


if __name__ == "__main__":
    main()
