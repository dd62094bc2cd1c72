"""A decode step's layers on a GPU: our kernels beside the layers as written, right and how fast.

    python benchmarks/gpu/decode.py [--weights int8]

The decoder of the 4 B model with random weights, over a cache of 288 slots: the difference between both ways,
and milliseconds of a pass replayed as a CUDA graph, with and without early launches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace

import torch

from spatialvla.kernels.gpu import launches
from spatialvla.model.fast.decoder import fuse_layer
from spatialvla.model.fast.gpu_decoder import GPUDecoder
from spatialvla.model.gemma2 import Gemma2Decoder, KVCache, attention_bias, rotary_angles
from spatialvla.model.presets import preset

SLOTS = 288


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", choices=("int8", "fp8"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 11])
    options = parser.parse_args()
    torch.manual_seed(0)
    config = replace(preset("4b").text, vocab_size=16)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        written = Gemma2Decoder(config).requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    for layer in written.layers:
        for part in layer.parameters():
            part.normal_(std=0.02)
        fuse_layer(layer, config, options.weights)
    fast = GPUDecoder(written)
    weights = sum(part.nbytes for part in [*written.layers.parameters(), *written.layers.buffers()])
    shape = (1, config.num_key_value_heads, SLOTS, config.head_dim)
    made = [torch.randn(shape, device="cuda").bfloat16() for _ in range(2 * config.num_hidden_layers)]
    cache = KVCache(tuple(made[::2]), tuple(made[1::2]))
    large = torch.rand(2**29, device="cuda")
    rate = large.nbytes / seconds(lambda: large.sum())
    print(
        f"{torch.cuda.get_device_name()}: a sum reads {rate / 1e9:.0f} GB/s; weights {weights / 1e9:.2f} GB"
    )
    failed = False
    for tokens in options.tokens:
        slots = torch.arange(270, 270 + tokens, device="cuda")
        visible = (torch.arange(SLOTS, device="cuda") <= slots[:, None])[None]
        bias = attention_bias(visible, torch.bfloat16)
        rotary = rotary_angles(slots[None], config.head_dim, config.rope_theta, torch.bfloat16)
        x = torch.randn(1, tokens, config.hidden_size, device="cuda").bfloat16()
        given = (x, rotary, bias, bias, cache, slots, None)
        wanted = written.run_layers(*given)
        for early in (tokens, 0):
            launches.EARLY_ROWS = early
            apart = difference(fast.run_layers(*given), wanted)
            graph, out = recorded(lambda given=given: fast.run_layers(*given))
            took = seconds(graph.replay)
            again = difference(out, wanted)
            way = "early" if early else "late"
            print(
                f"{tokens} tokens, launched {way}: {1e3 * took:.3f} ms, {weights / took / rate:.0%} of the floor, "
                f"differs by {apart:.4f}, replayed {again:.4f}",
                flush=True,
            )
            failed |= not max(apart, again) < 0.1
    sys.exit(failed)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).float().norm() / b.float().norm())


def recorded(work):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()
    return graph, out


def seconds(work) -> float:
    """The median of 20 runs."""
    times = []
    for _ in range(23):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times[3:])


if __name__ == "__main__":
    main()
