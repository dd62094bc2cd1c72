"""What faster inference costs in accuracy: actions in other precisions, and with kept depth, on real frames.

    python benchmarks/agreement.py --dataset datasets/libero_spatial --frames 200

For `nano`: how many tokens stay those of float32, how far the actions move (mean over the six continuous
coordinates, in multiples of the spread of the recorded actions), and the error against the recorded actions
themselves. Depth that is k frames old is what `depth_every` leads to at its worst. --quantized: the same
policy with its weights in 4 bits, as `spatialvla export --precision int4` writes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from spatialvla import Observation, Policy
from spatialvla.data.lerobot.reader import LeRobotDataset
from spatialvla.model.fast.options import Optimization

CAMERA = "observation.images.agentview"
AGES = (0, 2, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--policy", default="nano")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--quantized", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    plain = Policy.from_pretrained(options.policy)
    eight = Optimization(weights="int8")
    every_eight = Optimization(weights="int8", activations="int8")
    fast = {
        name: Policy.from_pretrained(options.policy, dtype=dtype, optimization=optimization)
        for name, dtype, optimization in (
            ("float32, fused", torch.float32, Optimization()),
            ("bfloat16", torch.bfloat16, Optimization()),
            ("int8 weights, float32", torch.float32, eight),
            ("int8 weights, bfloat16", torch.bfloat16, eight),
            ("w8a8, float32", torch.float32, every_eight),
            ("w8a8, bfloat16", torch.bfloat16, every_eight),
            ("int4 weights, rounded, bfloat16", torch.bfloat16, Optimization(weights="int4")),
            ("w4a8, rounded, bfloat16", torch.bfloat16, Optimization(weights="int4", activations="int8")),
        )
    }
    for folder in options.quantized:
        for name, dtype, optimization in (
            ("float32", torch.float32, Optimization()),
            ("bfloat16", torch.bfloat16, Optimization()),
            ("w4a8, rounded, bfloat16", torch.bfloat16, Optimization(weights="int4", activations="int8")),
        ):
            fast[f"{folder.name}, {name}"] = Policy.from_pretrained(
                folder, dtype=dtype, optimization=optimization
            )
    seen, recorded, earlier = frames_of(LeRobotDataset(options.dataset), options.frames, plain)
    reference = predict(plain, seen)
    spread = recorded[:, :, :6].std(axis=(0, 1))
    print(f"{len(seen)} frames of {options.dataset.name}\n")
    print(
        "| way | tokens equal | first step equal | actions differ by | error against the recorded actions |"
    )
    print("|---|---:|---:|---:|---:|")
    rows = {"float32": reference} | {name: predict(policy, seen) for name, policy in fast.items()}
    for age in AGES[1:]:
        rows[f"depth of {age} frames ago"] = predict(plain, with_depth(plain, seen, earlier[age]))
    for name, (actions, tokens) in rows.items():
        same = tokens == reference[1]
        moved = (np.abs(actions - reference[0])[:, :, :6] / spread).mean()
        error = (np.abs(actions - recorded)[:, :, :6] / spread).mean()
        print(f"| {name} | {same.mean():.1%} | {same[:, 0].all(1).mean():.1%} | {moved:.3f} | {error:.3f} |")


def frames_of(
    dataset: LeRobotDataset, count: int, policy: Policy
) -> tuple[list[Observation], np.ndarray, dict[int, list[Observation]]]:
    """Observations, the actions recorded from there on (N, T, 7), and what the camera saw so many frames before."""
    chunk, draw = policy.processor.action_chunk_size, np.random.default_rng(0)
    seen: list[Observation] = []
    recorded = []
    earlier: dict[int, list[Observation]] = {age: [] for age in AGES}
    for index in draw.permutation(len(dataset)):
        episode, instruction = dataset.episode(int(index)), dataset.instruction(int(index))
        steps = draw.choice(len(episode) - chunk, size=min(10, len(episode) - chunk), replace=False)
        for step in steps.tolist():
            before = [max(0, step - age) for age in AGES]
            images = dict(zip(AGES, episode.frames(CAMERA, before), strict=True))
            K = episode.columns["observation.intrinsics"][step].reshape(3, 3)
            for age, image in images.items():
                earlier[age].append(Observation(image, instruction, K))
            seen.append(Observation(images[0], instruction, K))
            recorded.append(episode.columns["action"][step : step + chunk])
            if len(seen) == count:
                return seen, np.stack(recorded), earlier
    return seen, np.stack(recorded), earlier


def predict(policy: Policy, seen: list[Observation]) -> tuple[np.ndarray, np.ndarray]:
    chunks = [
        chunk for start in range(0, len(seen), 20) for chunk in policy.predict(seen[start : start + 20])
    ]
    return np.stack([c.actions for c in chunks]), np.stack([c.tokens for c in chunks])


def with_depth(policy: Policy, seen: list[Observation], before: list[Observation]) -> list[Observation]:
    """The observations with the depth that the policy estimated from earlier pictures."""
    maps = [m for start in range(0, len(seen), 20) for m in policy.depth(before[start : start + 20])]
    return [
        Observation(now.image, now.instruction, now.intrinsics, depth)
        for now, depth in zip(seen, maps, strict=True)
    ]


if __name__ == "__main__":
    main()
