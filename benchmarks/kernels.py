"""How fast a CPU multiplies few rows with a large bfloat16 or int8 weight, in several ways, beside plain reading.

    python benchmarks/kernels.py --threads 2

The weight has the shape of gate and up of the 4 B model, several times over so that no cache holds it. GB/s count the
bytes of the weight as it is stored; "rows" is the number of tokens in a pass. Rounds alternate between the ways.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from spatialvla.model import kernels
from spatialvla.model.precision import quantize

COPIES, N, K = 8, 18432, 2304
ROWS = (1, 4, 11, 16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        weights = [torch.randn(N, K).mul_(0.02).bfloat16() for _ in range(COPIES)]
        packed = [torch.ops.mkldnn._reorder_linear_weight(weight, 288) for weight in weights]
        eight = [quantize(weight, torch.int8) for weight in weights]
        ways: dict[str, Callable[[], Any]] = {
            "bfloat16, only read (sum)": lambda: [w.view(torch.float32).sum() for w in weights]
        }
        for rows in ROWS:
            x = torch.randn(rows, K).bfloat16()
            ways |= {
                f"bfloat16, {rows} rows, F.linear": lambda x=x: [F.linear(x, w) for w in weights],
                f"bfloat16, {rows} rows, packed for oneDNN": lambda x=x: [
                    torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "") for w in packed
                ],
                f"bfloat16, {rows} rows, kernels": lambda x=x: [kernels.bf16_rows(x, w) for w in weights],
                f"int8, {rows} rows, _weight_int8pack_mm": lambda x=x: [
                    torch._weight_int8pack_mm(x, w, s.bfloat16()) for w, s in eight
                ],
                f"int8, {rows} rows, kernels": lambda x=x: [kernels.int8_rows(x, w, s) for w, s in eight],
            }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(options.rounds):
            for name, way in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                way()
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(
        f"{options.threads} threads\n\n| way | GB/s, median | best | CPU of one product |\n|---|---:|---:|---:|"
    )
    for name, times in seconds.items():
        size = COPIES * N * K * (1 if name.startswith("int8") else 2) / 1e9
        wall = [one[0] for one in times]
        cpu = 1e3 * statistics.median(one[1] for one in times) / COPIES
        print(f"| {name} | {size / statistics.median(wall):.1f} | {size / min(wall):.1f} | {cpu:.1f} ms |")


if __name__ == "__main__":
    main()
