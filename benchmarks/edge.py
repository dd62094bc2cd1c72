"""Latency of whole chunks from exported graphs in ONNX Runtime beside the policy that they were exported from."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from spatialvla import Observation, Policy
from spatialvla.common.cpu import tune_cpu
from spatialvla.edge.export import export_graphs
from spatialvla.edge.runner import EdgePolicy
from timing import in_turns


def main() -> None:
    """Prints a Markdown table: milliseconds a chunk, medians on the wall and of the CPU, and the fastest round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="nano")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tune_cpu()
    torch.set_num_threads(options.threads)
    policy = Policy.from_pretrained(options.policy, speculate=False)
    picture = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    depth = np.full((256, 256), 0.9, np.float32)
    seen = Observation(picture, "pick up the black bowl")
    measured = Observation(picture, "pick up the black bowl", depth=depth)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "edge"
        export_graphs(Policy.from_pretrained(options.policy, speculate=False), out, "onnx")
        edge = EdgePolicy.load(out, threads=options.threads)
        ways = {
            "policy, depth estimated": lambda: policy.predict([seen]),
            "ONNX Runtime, depth estimated": lambda: edge.predict(seen),
            "policy, depth measured": lambda: policy.predict([measured]),
            "ONNX Runtime, depth measured": lambda: edge.predict(measured),
        }
        times = in_turns(ways, options.rounds)
    print("| way | ms a chunk | fastest | CPU ms |\n|---|---:|---:|---:|")
    for way, found in times.items():
        cpu = statistics.median(found.cpu)
        print(f"| {way} | {1000 * found.median:.0f} | {1000 * found.best:.0f} | {1000 * cpu:.0f} |")


if __name__ == "__main__":
    main()
