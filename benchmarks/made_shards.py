"""Shards of realistic size from the small RLDS dataset of the tests: its steps and episodes many times over."""

from __future__ import annotations

import json
import sys
from itertools import cycle, islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "data"))

from rlds_writer import example, record  # noqa: E402

from spatialvla.data.rlds import RLDSDataset, RLDSEpisode  # noqa: E402

SOURCE = ROOT / "tests" / "data" / "rlds" / "bridge_orig"


def make_shards(folder: Path, episodes: int, steps: int, shards: int = 4) -> Path:
    """A TFDS folder of bridge_orig's features; made once. 40 steps are 1.3 MB, as in the real dataset."""
    root = folder / f"bridge_orig-{episodes}x{steps}" / "bridge_orig" / "1.0.0"
    if (root / "dataset_info.json").exists():
        return root
    root.mkdir(parents=True, exist_ok=True)
    (root / "features.json").write_bytes((SOURCE / "features.json").read_bytes())
    few = [record(_longer(episode, steps)) for episode in RLDSDataset(SOURCE)]
    lengths = [len(range(shard, episodes, shards)) for shard in range(shards)]
    for shard, length in enumerate(lengths):
        with open(root / f"bridge_orig-train.tfrecord-{shard:05d}-of-{shards:05d}", "wb") as file:
            file.writelines(islice(cycle(few), length))
    info = json.loads((SOURCE / "dataset_info.json").read_text())
    info["splits"] = [info["splits"][0] | {"shardLengths": [str(length) for length in lengths]}]
    (root / "dataset_info.json").write_text(json.dumps(info))
    return root


def _longer(episode: RLDSEpisode, steps: int) -> bytes:
    """The episode's record with its steps repeated until there are so many."""
    stored = {}
    for key, spec in episode.specs.items():
        if spec.kind == "tensor":
            values = np.atleast_1d(np.asarray(episode.numbers(key)))
            numbers = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
            stored[key] = np.resize(numbers, (steps, *numbers.shape[1:])) if spec.is_of_steps else numbers
        else:
            items = [bytes(item) for item in episode.record[key].items()]
            stored[key] = list(islice(cycle(items), steps)) if spec.is_of_steps else items
    return example(stored)
