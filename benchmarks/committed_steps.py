"""How well policies go on from steps that are under way: where chunks join, and in what follows, on held-out frames.

    python benchmarks/committed_steps.py --dataset datasets/clean --policies nano runs/tuned/model

For each held-out frame of the demonstrations the policy first decides at an earlier one, as an asynchronous
loop would have; the last d steps of that chunk are under way when the frame is seen. Then it says the frame's
chunk, told of these steps or not. `jump`: how far the translation changes from the last step under way to the
next one, which is of the new chunk. `error`: of the translation of the new steps, beside the demonstrated
ones. Mean distances in the units of the dataset, with the 95 % interval of a bootstrap over episodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from spatialvla.data.in_memory import EpisodeSamples
from spatialvla.policy import Policy
from spatialvla.types import ActionChunk, Observation

BATCH = 32
RESAMPLES = 2_000


@dataclass(frozen=True)
class Options:
    """frames: of each held-out episode alike. held_out, seed: as of the training."""

    dataset: Path
    policies: tuple[str, ...] = ("nano",)
    key: str | None = None
    latency_steps: tuple[int, ...] = (1, 2)
    frames: int = 240
    held_out: float = 0.03
    seed: int = 0


def main(options: Options) -> None:
    torch.set_num_threads(1)
    print("| policy | steps under way | told | jump | error |\n|---|---:|---|---:|---:|")
    for name in options.policies:
        policy = Policy.from_pretrained(name, dataset=options.key)
        steps = policy.processor.action_chunk_size
        samples = EpisodeSamples.open(options.dataset, steps, policy.processor.image_size)
        _, held_out = samples.split(options.held_out, options.seed)
        held_out = held_out[held_out - samples.starts[samples.episodes[held_out]] >= steps]
        chosen = held_out[np.linspace(0, len(held_out) - 1, min(options.frames, len(held_out))).astype(int)]
        groups = samples.episodes[chosen]
        true = samples.chunks(chosen)
        for latency in options.latency_steps:
            before = list(predict(policy, samples, chosen - (steps - latency)))
            under_way = [chunk.tokens[steps - latency :] for chunk in before]
            last = np.stack([chunk.actions[-1, :3] for chunk in before])
            for told in (True, False):
                chunks = predict(policy, samples, chosen, under_way if told else None)
                actions = np.stack([chunk.actions for chunk in chunks])
                jump = np.linalg.norm(actions[:, latency, :3] - last, axis=1)
                wrong = np.linalg.norm(actions[:, latency:, :3] - true[:, latency:, :3], axis=2).mean(axis=1)
                cells = " | ".join(interval(values, groups) for values in (jump, wrong))
                print(f"| {name} | {latency} | {'yes' if told else 'no'} | {cells} |", flush=True)
    demonstrated = [
        np.linalg.norm(true[:, d, :3] - true[:, d - 1, :3], axis=1) for d in options.latency_steps
    ]
    jumps = ", ".join(interval(values, groups) for values in demonstrated)
    print(f"\nThe demonstrations themselves jump there by {jumps}.")


def predict(
    policy: Policy, samples: EpisodeSamples, frames: np.ndarray, committed: list[np.ndarray] | None = None
) -> Iterator[ActionChunk]:
    """A chunk for each frame."""
    for start in range(0, len(frames), BATCH):
        part = frames[start : start + BATCH]
        observations = [
            Observation(
                samples.images[frame],
                prompt,
                None if samples.intrinsics is None else samples.intrinsics[frame],
            )
            for frame, prompt in zip(part, samples.prompts(part), strict=True)
        ]
        rows = None if committed is None else committed[start : start + BATCH]
        yield from policy.predict(observations, committed=rows, drafts=[None] * len(part))


def interval(values: np.ndarray, groups: np.ndarray) -> str:
    """Mean over frames, and the 95 % interval of a bootstrap over episodes."""
    _, episode = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(episode, values), np.bincount(episode)
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} – {high:.3f})"


if __name__ == "__main__":
    main(tyro.cli(Options))
