"""The 4 B model in 4 bits on a CPU: its size, the memory that loading it takes, and its decoder's speed beside 8 bits.

    python benchmarks/four_bits.py write /tmp/four_bits
    python benchmarks/four_bits.py memory /tmp/four_bits
    python benchmarks/four_bits.py speed --threads 2 --rounds 5

`write` makes a checkpoint of random weights; `memory` loads it as a policy's is loaded, decodes a chunk and tells the
process's memory at its peak; `speed` runs prefill and decode of a chunk in each precision, one after the other, and
compares neighbors, so that a busy machine disturbs all. Times are medians of the rounds, of wall time and of the
processor's time.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from inference import a_batch
from inference_floor import PROMPT_TOKENS
from inference_memory import keep_freed_memory
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.fast.options import PRECISIONS, Optimization
from spatialvla.model.presets import preset
from spatialvla.model.published import empty_network
from spatialvla.model.quantization.linear import FourBitLinear
from spatialvla.model.quantization.network import empty_quantized
from spatialvla.model.quantization_entry import Quantization
from spatialvla.model.spatialvla import SpatialVLA

SCALES = 0x3A00_8888
"""The scale 2⁻¹¹ and four multipliers of 8: weights spread by 0.02."""


@dataclass
class Stages:
    """Seconds of prefill and decode, round by round, on the wall and of the processor."""

    wall: list[tuple[float, float]] = field(default_factory=list)
    cpu: list[tuple[float, float]] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("write", "memory", "speed"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=26, help="of the decoder that is timed")
    parser.add_argument("--precision", nargs="+", default=["w8a8", "w4a8", "int4"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        if options.what == "speed":
            speed(options.precision, options.rounds, options.layers)
        elif options.what == "write":
            write(options.folder)
        else:
            memory(options.folder)


def write(folder: Path) -> None:
    filled(preset("4b").replace(quantization=Quantization())).save_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    print(f"{size / 1e9:.2f} GB in {folder}")


def memory(folder: Path) -> None:
    peaks = {"before": _peak()}
    model = SpatialVLA.from_pretrained(folder, dtype="bfloat16")
    peaks["loaded"] = _peak()
    model.optimize()
    peaks["optimized"] = _peak()
    model.decode(a_batch(model, 1, seed=0))
    peaks["after a chunk"] = _peak()
    print("GB at the peak:", ", ".join(f"{name} {peak:.2f}" for name, peak in peaks.items()))


def speed(precisions: list[str], rounds: int, layers: int) -> None:
    models = {name: a_decoder(name, layers) for name in precisions}
    keep_freed_memory(True)
    measured = {name: Stages() for name in models}
    for number in range(rounds + 1):
        for name, model in models.items():
            wall, cpu = stages(model)
            if number:  # the first one warms up
                measured[name].wall.append(wall)
                measured[name].cpu.append(cpu)
    first = measured[precisions[0]]
    print("| precision | prefill | decode | CPU, prefill | CPU, decode | decode beside the first | CPU |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, run in measured.items():
        times = [
            statistics.median(round_[stage] for round_ in of)
            for of in (run.wall, run.cpu)
            for stage in (0, 1)
        ]
        ratios = [
            statistics.median(a[1] / b[1] for a, b in zip(*pair, strict=True))
            for pair in ((first.wall, run.wall), (first.cpu, run.cpu))
        ]
        cells = [*(f"{1e3 * seconds:,.0f}" for seconds in times), *(f"{ratio:.2f}" for ratio in ratios)]
        print(f"| {name} | {' | '.join(cells)} |")


def a_decoder(precision: str, layers: int) -> SpatialVLA:
    """The 4 B model's decoder with few words and next to no vision, which are the same in all precisions."""
    weights, activations = PRECISIONS[precision]
    whole = preset("4b")
    first = 1000
    config = whole.replace(
        text=replace(whole.text, vocab_size=first + whole.spatial_token_num, num_hidden_layers=layers),
        vision={**whole.vision, "num_hidden_layers": 1},
        use_vision_zoe=False,
        image_token_index=first - 1,
        action_token_begin_idx=first,
        quantization=Quantization() if weights == "int4" else None,
    )
    return filled(config).optimize(Optimization(weights=weights, activations=activations, text_head=False))


def filled(config: SpatialVLAConfig) -> SpatialVLA:
    """Random weights, a million of them again and again: drawing 4 B takes minutes."""
    torch.manual_seed(0)
    make = empty_network if config.quantization is None else empty_quantized
    model = make(SpatialVLA, config, torch.bfloat16).eval()
    normal, anything = (
        torch.randn(2**20).mul_(0.02).bfloat16(),
        torch.randint(256, (2**20,), dtype=torch.uint8),
    )
    for name, tensor in model.state_dict().items():
        if name.endswith(".scales"):
            tensor.fill_(SCALES)
        elif tensor.is_floating_point() or name.endswith(".numbers"):
            for part in tensor.view(-1).split(2**20):
                part.copy_((normal if tensor.is_floating_point() else anything)[: len(part)])
    assert config.quantization is None or any(isinstance(part, FourBitLinear) for part in model.modules())
    return model


def stages(model: SpatialVLA) -> tuple[tuple[float, float], tuple[float, float]]:
    """(prefill, decode) on the wall and of the processor."""
    passes, chunk, tokens = (
        model.passes,
        3 * model.config.action_chunk_size,
        model.config.image_token_num + PROMPT_TOKENS,
    )
    prompt = torch.randn(1, tokens, model.config.text.hidden_size).mul_(0.02).bfloat16()
    layout = passes.layout(torch.ones(1, tokens, dtype=torch.bool), chunk - 1)
    cache = passes.cache(*layout.real_BS.shape)
    clocks = [_now()]
    ids = passes.first_ids(prompt, torch.empty(1, 0, dtype=torch.long), layout, cache, 1)
    clocks.append(_now())
    slots = torch.arange(layout.prompt, layout.prompt + chunk)
    for index in range(1, chunk):
        ids = passes.next_ids(ids, slots[index - 1 : index], layout, cache, index % 3)
    clocks.append(_now())
    (w0, c0), (w1, c1), (w2, c2) = clocks
    return (w1 - w0, w2 - w1), (c1 - c0, c2 - c1)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
