"""The pictures of the pages: a scene of LIBERO, what nano sees and chooses in it, and episodes of an evaluation.

MUJOCO_GL=egl spatialvla demo --out runs/demo
MUJOCO_GL=egl python benchmarks/page_pictures.py runs/demo --out docs/images
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import tyro
from PIL import Image

from spatialvla import Observation, Policy
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.protocol import Inputs
from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.viz.action_grid import plot_grid
from spatialvla.viz.drawing import png
from spatialvla.viz.figures import depth_figure, joint_cloud_figure, point_cloud_figure
from spatialvla.viz.scenes import SeenScene

SUITE, SIZE = "libero_spatial", 224
INSTRUCTION = "pick up the black bowl between the plate and the ramekin and place it on the plate"
WIDTH = 1000
TASKS, FRAMES, TILE = 8, 8, 128


@dataclass(frozen=True)
class Options:
    evaluation: Annotated[Path, tyro.conf.Positional]
    """Folder that `spatialvla demo`, or an evaluation of nano on LIBERO-Spatial, wrote."""

    out: Path = Path("docs/images")
    """Folder for table.png, nano.webp, two_cameras.webp and nano_episodes.png."""


def main(options: Options) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    seen = scene()
    Image.fromarray(seen.image).save(options.out / "table.png", optimize=True)
    what_nano_sees(seen).save(options.out / "nano.webp", quality=92, method=6)
    two_cameras().save(options.out / "two_cameras.webp", quality=88, method=6)
    episodes(options.evaluation / "videos").save(options.out / "nano_episodes.png", optimize=True)


def scene() -> Observation:
    """Start state 0 of the first task, as the camera shows it."""
    benchmark = LiberoBenchmark(SIZE)
    environment = benchmark.open(SUITE, 0, benchmark.conventions(SUITE))
    try:
        environment.start(0)
        return environment.observe(depth=False)
    finally:
        environment.close()


def what_nano_sees(seen: Observation) -> Image.Image:
    """Depth, points and tokens below each other, clear where nothing is drawn."""
    policy = Policy.from_pretrained("nano")
    observation = Observation(seen.image, INSTRUCTION, seen.intrinsics)
    (chunk,), (depth,) = policy.predict([observation]), policy.depth([observation])
    pictures = [
        png(depth_figure(depth, seen.image), 200),
        png(point_cloud_figure(seen.image, depth, seen.intrinsics), 200),
        plot_grid(policy.processor.grid, tokens=chunk.tokens),
    ]
    return sheet_of(pictures)


def two_cameras() -> Image.Image:
    """What LIBERO's two cameras see, by the simulator's depth, as points of one space."""
    benchmark = LiberoBenchmark(SIZE, Inputs(("wrist",)))
    environment = benchmark.open(SUITE, 2, benchmark.conventions(SUITE))
    try:
        environment.start(0)
        for _ in range(6):
            environment.step(np.array([0.3, 0.2, -0.3, 0, 0, 0, 1.0]))
        seen = environment.observe(depth=True).cameras("agentview")
    finally:
        environment.close()
    scenes = [
        SeenScene(name, one.image, one.depth, one.intrinsics, mirror_extrinsics(one.extrinsics))
        for name, one in seen.items()
    ]
    pictures = [depth_figure(scene.depth, scene.image, scene.name) for scene in scenes]
    pictures += [joint_cloud_figure(scenes), joint_cloud_figure(scenes, by_camera=True)]
    return sheet_of([png(picture, 200) for picture in pictures], columns=2)


def sheet_of(pictures: list[bytes], columns: int = 1) -> Image.Image:
    """PNG files as rows of one picture, or as cells of rows of so many; clear where nothing is drawn."""
    width, cells = WIDTH // columns, []
    for picture in pictures:
        cell = Image.open(io.BytesIO(picture)).convert("RGBA")
        cells.append(cell.resize((width, round(cell.height * width / cell.width)), Image.Resampling.LANCZOS))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    sheet = Image.new("RGBA", (columns * width, sum(max(cell.height for cell in row) for row in rows)))
    top = 0
    for row in rows:
        for column, cell in enumerate(row):
            sheet.paste(cell, (column * width, top))
        top += max(cell.height for cell in row)
    return sheet


def episodes(videos: Path) -> Image.Image:
    """A row of frames for start state 0 of each of the first tasks, from its first to its last."""
    sheet = Image.new("RGB", (FRAMES * TILE, TASKS * TILE))
    for task in range(TASKS):
        with av.open(str(videos / f"task{task:02d}_state00.mp4")) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)]
        for column, number in enumerate(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)):
            tile = frames[number].resize((TILE, TILE), Image.Resampling.BOX)
            sheet.paste(tile, (column * TILE, task * TILE))
    return sheet


if __name__ == "__main__":
    main(tyro.cli(Options))
