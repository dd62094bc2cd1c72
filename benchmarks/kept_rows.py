"""Rows of a file drawn at random while it is not in memory: as kept frames are read, and from a mapped file.

    python benchmarks/kept_rows.py [--gigabytes 1] [--rounds 5] [--rows 500]

The file is that of frames of 128 x 128 pixels. Before each turn it is dropped from the page cache, as one is that
does not fit beside the others. Read is what the disk gave, by the process's own count (Linux).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spatialvla.common.row_files import RowFile, writing_rows

FRAME = (128, 128, 3)

Read = Callable[[Sequence[int]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="where the file is written, on the disk to be measured")
    options = parser.parse_args()
    size = int(np.prod(FRAME))
    many = int(options.gigabytes * 1e9) // size
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "frames.npy"
        write(path, many, rng)
        os.sync()
        ways: dict[str, Callable[[], Read]] = {
            "mapped": lambda: mapped(path),
            "kept frames": lambda: RowFile(path, (many, *FRAME), np.uint8).rows,
        }
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            drawn = rng.integers(many, size=options.rows).tolist()
            for name, way in ways.items():
                found[name].append(turn(path, way(), drawn))
    print(f"{'':12} ms a row   CPU ms a row   read of what was asked for")
    for name, turns in found.items():
        wall, cpu, read = (statistics.median(column) for column in zip(*turns, strict=True))
        each = 1e3 / options.rows
        print(f"{name:12} {each * wall:8.3f} {each * cpu:14.3f} {read / options.rows / size:22.1f}")


def write(path: Path, many: int, rng: np.random.Generator) -> None:
    with writing_rows(path, (many, *FRAME), np.uint8) as rows:
        for first in range(0, many, 1000):
            count = min(1000, many - first)
            rows[first : first + count] = rng.integers(0, 256, (count, *FRAME), np.uint8)


def mapped(path: Path) -> Read:
    array = np.load(path, mmap_mode="r")
    return lambda rows: np.asarray(array[rows])


def turn(path: Path, read: Read, rows: Sequence[int]) -> tuple[float, float, float]:
    """Seconds, seconds of computing and bytes from the disk."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    wall, cpu, disk = time.perf_counter(), time.process_time(), from_disk()
    for row in rows:
        read([row])
    return time.perf_counter() - wall, time.process_time() - cpu, from_disk() - disk


def from_disk() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


if __name__ == "__main__":
    main()
