"""Episodes a second of our RLDS reader and of tf.data, on the same shards, side by side.

    python benchmarks/rlds.py --tf-python /tmp/tfenv/bin/python [--episodes 400] [--steps 40] [--rounds 7]

--tf-python: of an environment with tensorflow-cpu and tensorflow-datasets; without it only our side runs.
Both sides verify checksums; none decodes an image. Rounds alternate between all sides, and each ratio is the
median of the rounds' ratios, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from made_shards import make_shards
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.rlds import RLDSDataset, RLDSEpisode
from spatialvla.data.survey import survey

FEW = 40  # episodes of the slowest pass


class TensorFlowSide:
    """A process of the other Python that makes passes on demand."""

    def __init__(self, python: str, root: Path) -> None:
        script = Path(__file__).with_name("tensorflow_side.py")
        self.process = subprocess.Popen(
            [python, script, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, name: str, **options: int) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"pass": name, **options}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def everything(episode: RLDSEpisode) -> None:
    """All numbers as arrays, all texts as strings, all images as files: what tf.data gives without decoding."""
    for key, spec in episode.specs.items():
        if spec.kind == "tensor":
            episode.numbers(key)
        elif spec.kind == "text":
            episode.texts(key)
        else:
            episode.image_files(key)


def ours(dataset: RLDSDataset, read: Callable[[RLDSEpisode], None]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for episode in dataset:
        read(episode)
    return {
        "count": len(dataset),
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
    }


def indexed(root: Path) -> dict[str, float]:
    """All records read and checked, and what a sample needs of them kept, as a run does once."""
    with TemporaryDirectory() as cache:
        dataset = RLDSDataset(root, cache=Path(cache))
        wall, cpu = time.perf_counter(), time.process_time()
        dataset.index_steps()
        return {
            "count": len(dataset),
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
        }


def surveyed(source: OXESource) -> dict[str, float]:
    """Actions, states and instructions from the index, standardized, with their statistics."""
    wall, cpu = time.perf_counter(), time.process_time()
    survey(source)
    return {"count": len(source), "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tf-python")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/spatialvla-benchmark"))
    options = parser.parse_args()
    root = make_shards(options.folder, options.episodes, options.steps)
    dataset = RLDSDataset(root, cache=options.folder / "whole")  # never indexed
    source = OXESource(root, cache=options.folder / "index")
    source.prepare(1)
    passes: dict[str, Callable[[], dict[str, float]]] = {
        "ours, everything": lambda: ours(dataset, everything),
        "ours, the index of steps": lambda: indexed(root),
        "ours, a survey by the index": lambda: surveyed(source),
    }
    other = TensorFlowSide(options.tf_python, root) if options.tf_python else None
    if other is not None:
        passes |= {
            "tf.data, TFDS nested steps": lambda: other("nested", episodes=FEW),
            "tf.data, steps as tensors (dlimp)": lambda: other("tensors"),
            "tf.data, TFRecordDataset, bytes alone": lambda: other("raw"),
        }
    for one in passes.values():
        one()  # warms the page cache and tf.data's graph
    results: dict[str, list[dict[str, float]]] = {name: [] for name in passes}
    for _ in range(options.rounds):
        for name, one in passes.items():
            results[name].append(one())
    if other is not None:
        other.close()
    megabytes = sum(file.stat().st_size for file in root.glob("*.tfrecord*")) / options.episodes / 1e6
    print(
        f"{options.episodes} episodes of {options.steps} steps, {megabytes:.1f} MB each, {options.rounds} rounds"
    )
    print(f"{'':38} {'episodes/s':>10} {'ms of CPU':>10} {'ours is (wall)':>15} {'(CPU)':>8}")
    for name, rounds in results.items():
        speed = statistics.median(one["count"] / one["wall"] for one in rounds)
        cpu = statistics.median(1e3 * one["cpu"] / one["count"] for one in rounds)
        pairs = list(zip(results["ours, everything"], rounds, strict=True))
        ratios = [
            statistics.median((b[time] / b["count"]) / (a[time] / a["count"]) for a, b in pairs)
            for time in ("wall", "cpu")
        ]
        print(f"{name:38} {speed:10.0f} {cpu:10.2f} {ratios[0]:14.1f}x {ratios[1]:7.1f}x")


if __name__ == "__main__":
    main()
