"""What Ego3D is worth in rollouts, where cameras, heights and places vary: a paired experiment with nano-wrist.

    spatialvla record --suite libero_spatial --cameras random --random-views 3 --wrist --draw-every 5 --seed 401 \
        --episodes-per-task 8 --out demos/cameras
    spatialvla record --suite spatial_exam --tasks 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 --cameras random \
        --random-views 3 --wrist --draw-every 5 --seed 411 --episodes-per-task 6 --out demos/places
    spatialvla train-depth --dataset demos/cameras demos/places --depth-weights nano-wrist --minutes 12 --camera \
        observation.images.agentview observation.images.random_0 observation.images.random_1 \
        observation.images.random_2 observation.images.wrist --out runs/depth
    python benchmarks/ego3d_rollouts.py train --demos demos/cameras demos/places --depth-weights runs/depth
    python benchmarks/ego3d_rollouts.py play --suite libero_plus_camera_spatial --tasks 200
    python benchmarks/ego3d_rollouts.py play --suite spatial_exam --episodes 4

Every row starts from nano-wrist's weights and learns from the same samples in the same order: the demonstrations as
the scene's own camera and three random ones see them, each with the wrist's picture and the arm's state. Rows with
Ego3D start with a fresh MLP of it, so that none keeps what the others lost; `ego3d-kept` keeps nano-wrist's. Depth is
estimated. `play` gives all rows the same start states; `spatialvla compare` holds two against each other. What is
done is not repeated, and what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from ego3d_starts import evenly_taken, saved_start
from spatialvla.common.json_files import read_json, write_json
from spatialvla.model.config import Ego3DFrame
from spatialvla.model.folders import resolve_folder
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.loop import train
from spatialvla.training.recipes import nano

START, SUITE = "nano-wrist", "libero_spatial"
CAMERAS = "+".join(f"observation.images.{name}" for name in ("agentview", "random_0", "random_1", "random_2"))


@dataclass(frozen=True)
class Row:
    """frame: of Ego3D, None without it. fresh: whether its MLP starts from random weights."""

    frame: Ego3DFrame | None
    fresh: bool = True


ROWS = {
    "ego3d": Row("robot"),
    "no-ego3d": Row(None),
    "ego3d-camera": Row("camera"),
    "ego3d-kept": Row("robot", fresh=False),
}
"""A row's folder, which is also what its results call the policy -> the row."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "play"))
    parser.add_argument("--out", type=Path, default=Path("runs/ego3d_rollouts"))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--demos", type=Path, nargs="*", default=[])
    parser.add_argument("--depth-weights", type=Path)
    parser.add_argument("--vision-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--threads", type=int, help="of training; all cores unless given")
    parser.add_argument("--seed", type=int, default=0, help="of training; give each its own --out")
    parser.add_argument("--suite", default="libero_plus_camera_spatial")
    parser.add_argument("--tasks", type=int, help="so many of LIBERO-plus's, evenly taken")
    parser.add_argument("--episodes", type=int, default=1, help="of each task")
    options = parser.parse_args()
    for name in options.rows:
        {"train": train_row, "play": play_row}[options.what](name, options)


# ---------------------------------------------------------------- training


def train_row(name: str, options: argparse.Namespace) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    if not (options.out / name / "model" / "config.json").exists():
        train(row_config(name, options), resume=True, console=Console(stderr=True))


def row_config(name: str, options: argparse.Namespace) -> TrainConfig:
    """nano's recipe from the start's weights, with the encoder's stage once more: it has to learn to see anew."""
    row = ROWS[name]
    recipe = nano(str(start(name, options.out, options.seed)))
    datasets = tuple(DatasetConfig(str(demos), camera=CAMERAS, key=demos.name) for demos in options.demos)
    return replace(
        recipe,
        guidance=replace(recipe.guidance, vision_steps=options.vision_steps),
        datasets=datasets,
        statistics=statistics(datasets, options.out),
        out=options.out / name,
        cache=options.out / "cache",
        depth_weights=options.depth_weights if row.frame else None,
        camera_dropout=0.05,
        state_dropout=0.05,
        steps=options.steps,
        minutes=None,
        batch_size=32,
        learning_rate=4e-4,
        eval_every=options.steps,
        save_every=250,
        keep=1,
        trackers=(),
        seed=options.seed,
    )


def start(name: str, out: Path, seed: int) -> Path:
    """nano-wrist's weights in a network with the row's Ego3D."""
    row = ROWS[name]
    folder = out / "starts" / name
    return saved_start(START, folder, seed, ego3d=row.frame is not None, frame=row.frame, fresh=row.fresh)


def statistics(datasets: tuple[DatasetConfig, ...], out: Path) -> Path:
    """A file that scales all of them as nano-wrist scales the suite."""
    known = read_json(resolve_folder(START) / "processor_config.json")["statistics"][SUITE]
    file = out / "statistics.json"
    write_json(file, {str(dataset.key): known for dataset in datasets})
    return file


# ---------------------------------------------------------------- rollouts


def play_row(name: str, options: argparse.Namespace) -> None:
    """`spatialvla evaluate`, scaled as nano-wrist is, of a row that is trained."""
    if not (options.out / name / "model" / "config.json").exists():
        print(f"{name} is not trained yet.")
        return
    command = [sys.executable, "-m", "spatialvla", "evaluate"]
    command += ["--policy", str(options.out / name), "--dataset", SUITE, "--suite", options.suite]
    command += ["--episodes-per-task", str(options.episodes), "--workers", "1"]
    command += ["--precision", "fp32", "--no-videos", "--decisions", "0"]
    command += ["--out", str(options.out / name / options.suite)]
    if options.tasks:
        command += ["--tasks", *evenly_taken(options.suite, options.tasks)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
