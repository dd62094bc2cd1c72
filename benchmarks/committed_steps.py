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

from spatialvla.common.cache_folder import cache_folder
from spatialvla.data.episodes import Episode, MovingChunks, action_chunks, planned_steps
from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.sources import open_source
from spatialvla.data.training_mixture import TrainingMixture
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


@dataclass(frozen=True)
class Frame:
    """One step of an episode that was held out."""

    episode: Episode
    step: int

    def earlier(self, steps: int) -> Frame:
        return Frame(self.episode, self.step - steps)


def main(options: Options) -> None:
    torch.set_num_threads(1)
    print("| policy | steps under way | told | jump | error |\n|---|---:|---|---:|---:|")
    for name in options.policies:
        policy = Policy.from_pretrained(name, dataset=options.key)
        steps = policy.processor.action_chunk_size
        chosen, groups = held_out_frames(options, steps, policy.processor.image_size)
        true = np.stack(
            [action_chunks(frame.episode.actions, np.array([frame.step]), steps)[0] for frame in chosen]
        )
        for latency in options.latency_steps:
            before = list(predict(policy, [frame.earlier(steps - latency) for frame in chosen]))
            under_way = [chunk.tokens[steps - latency :] for chunk in before]
            last = np.stack([chunk.actions[-1, :3] for chunk in before])
            for told in (True, False):
                chunks = predict(policy, chosen, under_way if told else None)
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


def _is_whole(frame: Frame, chunk: int) -> bool:
    """Whether all actions of the chunk from a frame on were carried out."""
    return int(planned_steps(frame.episode, np.array([frame.step]), chunk)[0]) == chunk


def held_out_frames(options: Options, chunk: int, size: int) -> tuple[list[Frame], np.ndarray]:
    """Frames at least a chunk behind their episode's start, and the number of the episode of each."""
    source = CachedSource(open_source(options.dataset), size, cache_folder("frames"))
    mixture = TrainingMixture.open(
        [MovingChunks(source, chunk)], held_out=options.held_out, seed=options.seed
    )
    drawing = mixture.evaluation(1 << 40)
    draws = drawing(np.arange(len(drawing)))
    episodes = {number: mixture.sources[0].episode(number) for number in set(draws.episode.tolist())}
    frames = [
        (number, Frame(episodes[number], int(episodes[number].starts[start])))
        for number, start in zip(draws.episode.tolist(), draws.start.tolist(), strict=True)
    ]
    late = [(number, frame) for number, frame in frames if frame.step >= chunk and _is_whole(frame, chunk)]
    rows = np.linspace(0, len(late) - 1, min(options.frames, len(late))).astype(int)
    return [late[row][1] for row in rows], np.array([late[row][0] for row in rows])


def predict(
    policy: Policy, frames: list[Frame], committed: list[np.ndarray] | None = None
) -> Iterator[ActionChunk]:
    """A chunk for each frame."""
    for start in range(0, len(frames), BATCH):
        part = frames[start : start + BATCH]
        observations = [
            Observation(
                frame.episode.images([frame.step])[0],
                frame.episode.instruction,
                None if frame.episode.camera is None else frame.episode.camera.intrinsics,
            )
            for frame in part
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
