"""The vision towers of the 4 B model on a GPU: each and both as a CUDA graph, and the kernels that take longest.

python benchmarks/gpu/towers.py [--batch 16]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from decode import difference, recorded, seconds
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent.parent))
from inference import a_batch, a_model
from spatialvla.model.fast.optimize import optimize
from spatialvla.model.fast.options import Optimization


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    model = a_model("4b", torch.bfloat16, torch.device("cuda")).eval()
    batch = a_batch(model, options.batch, seed=0)
    wanted = model.depth(batch), model.siglip_features(batch)
    optimize(model, Optimization(compile=True))
    meters = replace(batch, depth=wanted[0])
    parts = {
        "depth": lambda: model.depth(batch),
        "SigLIP": lambda: model.siglip_features(batch),
        "Ego3D and embedding": lambda: model.embed(meters, model.project(wanted[1])),
    }
    for name, part in parts.items():
        graph, out = recorded(part)
        took = seconds(graph.replay)
        apart = [f", differs by {difference(out, other):.4f}" for other in wanted if other.shape == out.shape]
        print(f"{name}, batch {options.batch}: {1e3 * took:.3f} ms{''.join(apart)}", flush=True)
        if name == "depth":
            with profile(activities=[ProfilerActivity.CUDA]) as profiled:
                for _ in range(5):
                    graph.replay()
                torch.cuda.synchronize()
            for event in sorted(profiled.key_averages(), key=lambda e: -e.self_device_time_total)[:25]:
                print(f"{event.self_device_time_total / 5e3:8.3f} ms {event.count // 5:5} x {event.key[:90]}")


if __name__ == "__main__":
    main()
