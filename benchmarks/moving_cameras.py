"""What Ego3D's frame is worth where cameras move: the same demonstrations, budget and start states for every row.

    spatialvla record --cameras random --random-views 2 --wrist --depth-video log --seed 0 --out demos/libero_spatial
    spatialvla record --cameras random --random-views 2 --wrist --depth-video log --seed 1 --episodes-per-task 2 \
        --out held_out/libero_spatial
    python benchmarks/moving_cameras.py train  --demos demos/libero_spatial --out runs/moving [--rows robot-random …]
    spatialvla train-depth --dataset demos/libero_spatial --depth-weights nano --out runs/moving/depth --camera \
        observation.images.agentview observation.images.random_0 observation.images.random_1
    python benchmarks/moving_cameras.py errors --held-out held_out/libero_spatial --out runs/moving
    python benchmarks/moving_cameras.py depth  --held-out held_out/libero_spatial --out runs/moving
    python benchmarks/moving_cameras.py play   --out runs/moving --rows robot-random camera-random --episodes 100
    python benchmarks/moving_cameras_table.py runs/moving --demos demos/libero_spatial --out docs/images

A row is a frame of Ego3D (the robot's, the camera's, or no Ego3D) and what it is trained on: the scene's own
camera, or two that were drawn anew for each demonstration. Rows start from nano's weights; Ego3D's MLP, whose
input differs, starts from fresh ones in every row. Depth is the simulator's throughout, so that the estimator's
error is not mixed in; `depth` measures that. Errors are of freely generated actions on demonstrations that no row
was trained on, with the 95 % interval of a bootstrap over them; differences are paired. `play` plays LIBERO-plus's
camera tasks, evenly taken. What is done is not repeated, and what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from rich.console import Console

from ego3d_starts import evenly_taken, saved_start
from spatialvla.common.json_files import write_json
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import evaluation_batches
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.samples import ReadOptions
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.model.config import Ego3DFrame
from spatialvla.model.folders import resolve_folder
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.loop import train
from spatialvla.training.metrics import prompts_of
from spatialvla.training.recipes import nano
from spatialvla.training.start.build import load_depth

SUITE = "libero_plus_camera_spatial"
KEY = "libero_spatial"
WORKSPACE = (0.55, 0.0, 0.1, 0.5)
"""Of the robot's frame, in meters: the middle of the table, and how far its things are from it."""

START = "nano"
PARTS = ("translation", "rotation", "gripper")
SEEN_BY = {"fixed": ("agentview",), "random": ("random_0", "random_1")}
DEPTHS = {"": None, ", depth estimated": Path(START), ", depth learned anew": Path("depth")}
"""What is added to the names of the cameras -> whose estimate of depth takes the simulator's place: nano's, or that of
the estimator in <out>/depth, if there is one."""


@dataclass(frozen=True)
class Row:
    """frame: of Ego3D, None without it. cameras: what it is trained on, "" for the start itself.

    workspace: of the robot's frame, the published scale's unless given. wrist: whether it has the wrist's camera, too.
    """

    frame: Ego3DFrame | None
    cameras: str
    workspace: tuple[float, float, float, float] | None = None
    wrist: bool = False

    @property
    def more_cameras(self) -> tuple[str, ...]:
        """Beside the first."""
        return ("wrist",) if self.wrist else ()


_FRAMES: tuple[Ego3DFrame | None, ...] = ("robot", "camera", None)
ROWS = {
    "nano": Row("camera", ""),
    **{
        f"{frame or 'none'}-{cameras}": Row(frame, cameras, WORKSPACE if frame == "robot" else None)
        for cameras in SEEN_BY
        for frame in _FRAMES
    },
    "robot2m-random": Row("robot", "random"),
    "robot-random-wrist": Row("robot", "random", WORKSPACE, wrist=True),
    "none-random-wrist": Row(None, "random", wrist=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("train", "errors", "depth", "play"))
    parser.add_argument("--demos", type=Path)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/moving_cameras"))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--vision-steps", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0, help="of training; give each its own --out")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--frames", type=int, default=400, help="of each set of cameras")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_args()
    steps = {"train": train_rows, "errors": measure_rows, "depth": measure_depth, "play": play}
    steps[options.what](options)


# ---------------------------------------------------------------- training


def train_rows(options: argparse.Namespace) -> None:
    for name in options.rows:
        if ROWS[name].cameras and not (options.out / name / "model" / "config.json").exists():
            train(row_config(ROWS[name], options.out / name, options), True, console=Console(stderr=True))


def row_config(row: Row, out: Path, options: argparse.Namespace) -> TrainConfig:
    """nano's recipe from the start's weights, with the encoder's stage once more: it has to learn to see anew."""
    recipe = nano(str(start(row.frame is not None, options.out, options.seed)))
    return replace(
        recipe,
        guidance=replace(recipe.guidance, vision_steps=options.vision_steps),
        datasets=tuple(
            DatasetConfig(
                str(options.demos),
                mapping=mapping(camera, options.out, row.wrist),
                key=KEY if number == 0 else f"{KEY}/{number}",
            )
            for number, camera in enumerate(SEEN_BY[row.cameras])
        ),
        out=out,
        cache=options.out / "cache",
        ego3d_frame=row.frame,
        add_camera=row.more_cameras,
        workspace=row.workspace,
        depth="sensor",
        steps=options.steps,
        minutes=None,
        batch_size=options.batch_size,
        learning_rate=4e-4,
        ema_decay=0.99,
        held_out=0.0,
        eval_every=100_000,
        save_every=250,
        keep=1,
        trackers=(),
        seed=options.seed,
    )


def start(ego3d: bool, out: Path, seed: int) -> Path:
    """nano with Ego3D's MLP from fresh weights, or without Ego3D."""
    return saved_start(START, out / ("start" if ego3d else "start-without-ego3d"), seed, ego3d=ego3d)


def mapping(camera: str, out: Path, wrist: bool = False) -> Path:
    """The file that chooses one of the recorded cameras, with the wrist's as another one."""
    file = out / "mappings" / f"{camera}{'-wrist' if wrist else ''}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = {**_lines(camera), "cameras": {"wrist": _lines("wrist")} if wrist else {}, "key": KEY}
    file.write_text(yaml.safe_dump(lines, sort_keys=False))
    return file


def _lines(camera: str) -> dict[str, str]:
    suffix = "" if camera == "agentview" else f".{camera}"
    return {
        "image": f"observation.images.{camera}",
        "depth": f"observation.depth.{camera}",
        "intrinsics": f"observation.intrinsics{suffix}",
        "extrinsics": f"observation.extrinsics{suffix}",
    }


# ---------------------------------------------------------------- held-out error


def model_of(name: str, out: Path) -> Path:
    """The folder of a row's policy; it need not be there."""
    return out / name / "model" if ROWS[name].cameras else resolve_folder(START)


def measure_rows(options: argparse.Namespace) -> None:
    for name in options.rows:
        model, file = model_of(name, options.out), options.out / name / "errors.json"
        if not (model / "config.json").exists():
            continue
        found = json.loads(file.read_text()) if file.exists() else {}
        for depth, weights in estimators(options.out).items():
            for cameras in SEEN_BY:
                if (seen := cameras + depth) not in found and (weights is None or ROWS[name].frame):
                    found[seen] = errors(ROWS[name], model, cameras, weights, options)
                    write_json(file, found)


def estimators(out: Path) -> dict[str, Path | None]:
    """`DEPTHS`, with what is there."""
    own = out / "depth"
    there = {depth: own if weights == Path("depth") else weights for depth, weights in DEPTHS.items()}
    return {
        depth: weights
        for depth, weights in there.items()
        if weights != own or (own / "quality.json").exists()
    }


@torch.no_grad()
def errors(
    row: Row, folder: Path, cameras: str, estimator: Path | None, options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Mean absolute errors of each frame's chunk, by episode, in the dataset's units; gripper: share wrong.

    estimator: whose depth Ego3D sees; None gives it the simulator's.
    """
    model, processor = SpatialVLA.from_pretrained(folder), Processor.from_pretrained(folder)
    if estimator is not None:
        load_depth(model.vision_zoe_model, estimator)
    read = ReadOptions(
        Augmentation.off(),
        depth=estimator is None,
        extrinsics=model.config.needs_extrinsics,
        cameras=row.more_cameras,
    )
    frames = options.frames // len(SEEN_BY[cameras])
    found: dict[str, dict[str, list[float]]] = {}
    for camera in SEEN_BY[cameras]:
        mixture = everything(options.held_out, camera, options.out, row.wrist)
        for loaded in evaluation_batches(mixture, processor, 32, frames, read):
            tokens = model.generate(prompts_of(loaded.batch))
            error = np.abs(processor.decode(tokens, [KEY] * len(loaded.batch)) - loaded.actions)
            for episode, one in zip(loaded.episode.tolist(), error, strict=True):
                means = (one[:, :3].mean(), one[:, 3:6].mean(), (one[:, 6] > 0.5).mean())
                for part, value in zip(PARTS, means, strict=True):
                    found.setdefault(str(episode), {}).setdefault(part, []).append(float(value))
    return found


def everything(dataset: Path, camera: str, out: Path, wrist: bool = False) -> TrainingMixture:
    """All of a dataset as held out."""
    source = LeRobotSource(dataset, FeatureMapping.load(mapping(camera, out, wrist)))
    mixture = TrainingMixture.open([source], cache=out / "cache" / "surveys")
    return replace(mixture, held_out=tuple(np.ones_like(found) for found in mixture.held_out))


# ---------------------------------------------------------------- depth


@torch.no_grad()
def measure_depth(options: argparse.Namespace) -> None:
    """How far the depth estimators are off, on the camera that nano's knows and on others."""
    model, processor = SpatialVLA.from_pretrained(START), Processor.from_pretrained(START)
    read, found = ReadOptions(Augmentation.off(), depth=True), {}
    for weights in filter(None, estimators(options.out).values()):
        load_depth(model.vision_zoe_model, weights)
        for cameras, names in SEEN_BY.items():
            relative, within, median = [], [], []
            for camera in names:
                mixture = everything(options.held_out, camera, options.out)
                frames = options.frames // len(names)
                for loaded in evaluation_batches(mixture, processor, 32, frames, read):
                    truth = loaded.batch.depth
                    assert truth is not None
                    estimate = model.vision_zoe_model.estimate(loaded.batch.pixel_values).view(truth.shape)
                    off, ratio = (estimate - truth).abs(), estimate / truth
                    relative += (off / truth).flatten(1).mean(1).tolist()
                    within += (torch.maximum(ratio, 1 / ratio) < 1.25).float().flatten(1).mean(1).tolist()
                    median += off.flatten(1).median(1).values.tolist()
            found[f"{weights.name}, {cameras}"] = {
                "frames": len(relative),
                "mean relative error": float(np.mean(relative)),
                "within a factor of 1.25": float(np.mean(within)),
                "mean of the frames' median error in meters": float(np.mean(median)),
            }
    write_json(options.out / "depth.json", found)
    print(json.dumps(found, indent=1))


# ---------------------------------------------------------------- rollouts


def play(options: argparse.Namespace) -> None:
    """`spatialvla evaluate` for each row, on the same tasks."""
    tasks = evenly_taken(SUITE, options.episodes)
    for name in options.rows:
        command = [sys.executable, "-m", "spatialvla", "evaluate"]
        command += ["--policy", str(model_of(name, options.out)), "--dataset", KEY, "--suite", SUITE]
        command += ["--tasks", *tasks, "--depth", "simulator", "--workers", "1"]
        command += ["--no-videos", "--decisions", "0", "--out", str(options.out / name / "rollouts")]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
