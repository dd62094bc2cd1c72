"""Samples a second drawn at random from LeRobot's videos, ours beside LeRobot's own loader, in turns.

    python benchmarks/lerobot_video.py --lerobot-python PYTHON [--rounds 7] [--samples 40]

A dataset is made by LeRobot with its own settings (640x480, AV1, depth as 12-bit HEVC), and read with one, two and
three cameras and with depth. A sample is the pictures of a step, the state, and the next 4 actions. One process and
one thread each; LeRobot decodes each of several cameras in a thread of its own. "Kept" is our cache of frames that
were decoded and scaled to 224x224 once (`--in-memory` of a training).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import av
import numpy as np

from spatialvla.data.episodes import EpisodeSource, action_chunks
from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource

FPS, CHUNK, SIZE = 30, 4, 224
TOP = "observation.images.top"
SEEN = {
    "one camera": (TOP,),
    "two cameras": (TOP, "observation.images.left"),
    "three cameras": (TOP, "observation.images.left", "observation.images.wrist"),
    "one camera and its depth": (TOP, f"{TOP}_depth"),
}


class LeRobotSide:
    """A process of the other Python that reads on demand."""

    def __init__(self, python: str, root: Path) -> None:
        self.process = subprocess.Popen(
            [python, Path(__file__).with_name("lerobot_side.py"), "read", root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )

    def __call__(self, **asked: int) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


class OurSide:
    """The same samples by our reader."""

    def __init__(self, source: EpisodeSource, lengths: np.ndarray) -> None:
        self.source = source
        self.steps = [(episode, step) for episode, length in enumerate(lengths) for step in range(length)]

    def sample(self, index: int) -> dict[str, np.ndarray | None]:
        number, step = self.steps[index]
        episode = self.source.episode(number)
        found = {name: view.images([step]) for name, view in episode.other_views.items()}
        return {
            **found,
            "top": episode.images([step]),
            "depth": episode.depth([step]),
            "state": episode.state[step],
            "action": action_chunks(episode.actions, np.array([step]), CHUNK)[0],
        }

    def __call__(self, seed: int, count: int) -> dict[str, float]:
        drawn = np.random.default_rng(seed).integers(len(self.steps), size=count).tolist()
        wall, cpu = time.perf_counter(), time.process_time()
        for index in drawn:
            self.sample(index)
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


class Decoding:
    """The floor: the pictures of the same steps decoded by open decoders, without colors, numbers or meters."""

    def __init__(self, root: Path, features: tuple[str, ...], steps: int) -> None:
        files = [next((root / "videos" / name).rglob("*.mp4")) for name in features]
        self.containers, self.steps = [av.open(str(file)) for file in files], steps
        for container in self.containers:
            container.streams.video[0].codec_context.thread_count = 1

    def __call__(self, seed: int, count: int) -> dict[str, float]:
        drawn = np.random.default_rng(seed).integers(self.steps, size=count).tolist()
        wall, cpu = time.perf_counter(), time.process_time()
        for index in drawn:
            for container in self.containers:
                stream = container.streams.video[0]
                moment = stream.start_time + round(index / FPS / stream.time_base)
                container.seek(moment, stream=stream)
                next(frame for frame in container.decode(stream) if frame.pts >= moment)
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def part_of(whole: Path, features: tuple[str, ...]) -> Path:
    """The dataset with these cameras alone, behind links."""
    part = whole.with_name("-".join([whole.name, *(name.rsplit(".", 1)[-1] for name in features)]))
    (part / "meta").mkdir(parents=True, exist_ok=True)
    for source in (whole / "data", whole / "videos", *(whole / "meta").iterdir()):
        link = part / source.relative_to(whole)
        if source.name != "info.json" and not link.exists():
            link.symlink_to(source.resolve())
    info = json.loads((whole / "meta" / "info.json").read_text())
    info["features"] = {
        name: lines
        for name, lines in info["features"].items()
        if not name.startswith("observation.images") or name in features
    }
    (part / "meta" / "info.json").write_text(json.dumps(info))
    return part


def check_same(ours: OurSide, other: LeRobotSide) -> None:
    """Both see the same, but for how colors are rounded."""
    for index in range(0, len(ours.steps), len(ours.steps) // 5):
        sample, theirs = ours.sample(index), other(look=index)
        for key, mean in theirs.items():
            short = "depth" if key.endswith("depth") else key.rsplit(".", 1)[-1]
            difference = abs(float(np.mean(sample[short], dtype=float)) - mean)
            assert difference < (1e-4 if short == "depth" else 0.5), (key, index, difference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lerobot-python", required=True)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/spatialvla-benchmark"))
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    whole = options.folder / f"lerobot-{options.episodes}x{options.steps}"
    if not whole.exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("lerobot_side.py")
        command = [options.lerobot_python, script, "make", whole, str(options.episodes), str(options.steps)]
        subprocess.run(
            command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL
        )
    ways = ("LeRobot", "decoding", "ours", "kept")
    head = "".join(f"{f'{way}, /s':>14}{'CPU, ms':>8}" for way in ways)
    print(f"{'':26}{head}  as fast as LeRobot, times: decoding, ours, kept")
    for name, features in SEEN.items():
        part = part_of(whole, features)
        source = LeRobotSource(part, FeatureMapping(image=TOP))
        lengths, began = source.dataset.lengths, time.process_time()
        kept = CachedSource(source, SIZE, options.folder / "frames")
        building = time.process_time() - began
        sides = (
            LeRobotSide(options.lerobot_python, part),
            Decoding(part, features, int(lengths.sum())),
            OurSide(source, lengths),
            OurSide(kept, lengths),
        )
        check_same(sides[2], sides[0])
        rounds = []
        for seed in range(-1, options.rounds):
            measured = [side(seed=max(seed, 0), count=options.samples) for side in sides]
            rounds += [measured] if seed >= 0 else []  # the first one warms all
        row = f"{name:26}"
        for number in range(len(sides)):
            wall, cpu = (
                statistics.median(one[number][clock] for one in rounds) / options.samples
                for clock in ("wall", "cpu")
            )
            row += f"{1 / wall:14.1f}{1e3 * cpu:8.2f}"
        for clock in ("wall", "cpu"):
            ratios = (
                statistics.median(one[0][clock] / one[number][clock] for one in rounds)
                for number in (1, 2, 3)
            )
            row += f"  {clock} " + " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{row}  (kept at {1e3 * building / lengths.sum():.1f} ms of CPU a step)", flush=True)


if __name__ == "__main__":
    main()
