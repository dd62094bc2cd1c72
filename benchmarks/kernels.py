"""How fast a CPU multiplies rows with a large bfloat16 or int8 weight, in several ways, beside plain reading.

    python benchmarks/kernels.py --threads 2

The weight has the shape of gate and up of the 4 B model, several times over so that no cache holds it. GB/s
count the bytes of the weight as it is stored, TFLOP/s the operations; "rows" is the number of tokens in a
pass. Rounds alternate between the ways.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from spatialvla.kernels.library import build
from spatialvla.kernels.products import bf16_product, int8_product, pack_bf16, pack_int8
from spatialvla.model.fast.linear import quantize
from timing import in_turns

COPIES, N, K = 8, 18432, 2304
ROWS = (1, 4, 11, 272)


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
        ours = [pack_bf16(weight) for weight in weights]
        ours_eight = [pack_int8(weight) for weight in weights]
        ways: dict[tuple[str, int], Callable[[], Any]] = {
            ("bfloat16, only read (sum)", 0): lambda: [w.view(torch.float32).sum() for w in weights]
        }
        for rows in ROWS:
            x = torch.randn(rows, K).bfloat16()
            ways |= {
                ("bfloat16, F.linear", rows): lambda x=x: [F.linear(x, w) for w in weights],
                ("bfloat16, packed for oneDNN", rows): lambda x=x: [
                    torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "") for w in packed
                ],
                ("bfloat16, our kernels", rows): lambda x=x: [bf16_product(x, w, None, N) for w in ours],
                ("int8, torch._weight_int8pack_mm", rows): lambda x=x: [
                    torch._weight_int8pack_mm(x, w, s.bfloat16()) for w, s in eight
                ],
                ("int8, our kernels", rows): lambda x=x: [
                    int8_product(x, w, s, None, N, 16) for w, s in ours_eight
                ],
                ("int8 with activations in 8 bits, our kernels", rows): lambda x=x: [
                    int8_product(x, w, s, None, N, 8) for w, s in ours_eight
                ],
            }
        measured = in_turns(ways, options.rounds)
    print(f"{options.threads} threads; matrix units (AMX): {build().matrix_units}\n")
    print(
        "| way | rows | GB/s, median | best | TFLOP/s, best | CPU of one product |\n|---|---:|---:|---:|---:|---:|"
    )
    for (name, rows), times in measured.items():
        size = COPIES * N * K * (1 if name.startswith("int8") else 2) / 1e9
        cpu = 1e3 * statistics.median(times.cpu) / COPIES
        rate = 2 * COPIES * N * K * rows / times.best / 1e12
        speeds = f"{size / times.median:.1f} | {size / times.best:.1f} | {rate:.2f}"
        print(f"| {name} | {rows} | {speeds} | {cpu:.1f} ms |")


if __name__ == "__main__":
    main()
