"""The paper's ideas ablated by training from the start: every row begins with random weights in all but depth.

    spatialvla record --suite libero_spatial --episodes-per-task 25 --no-depth --out demos/libero_spatial
    python benchmarks/from_start.py --dataset demos/libero_spatial --out runs/from_start [--rows paper linear …]

Every row is nano's recipe from the very same random weights, on the same demonstrations in the same order, for as
many batches of the vision stage and as many steps of the policy. That stage knows neither grid nor mask, so the rows
that differ in these alone share it. Then each row's errors of freely generated actions on held-out episodes, with
the 95 % interval of a bootstrap over them, and its successes from the stored start states, in none of which a
demonstration began, in pairs with `paper`. What is done is not repeated, and what was interrupted goes on. Writes
<out>/table.md and <out>/rows.json.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console

from ablation_rows import PARTS, SEED, Errors, interval, measured, play, played, success, without_ego3d
from spatialvla.actions.grids import ActionGrid
from spatialvla.common.json_files import read_json, write_json
from spatialvla.evaluation.results.comparison import p_text
from spatialvla.evaluation.results.intervals import Pairs
from spatialvla.model.decoding.passes import Layout
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.loop import train
from spatialvla.training.recipes import nano

HELD_OUT = 0.1
WORKSPACE = (0.55, 0.0, 0.1, 0.5)
"""Of the robot's frame, in meters: the middle of the table, and how far its things are from it."""

SEEING: dict[str, dict[str, Any]] = {
    "camera": {},
    "robot": {"ego3d_frame": "robot", "workspace": WORKSPACE},
    "blind": {},
}
"""What sees -> what is said of it to training; blind starts from a network without Ego3D."""


@dataclass(frozen=True)
class Row:
    """One line of the table. seeing: one of `SEEING`. linear: whether the cells of its grid are of equal size."""

    title: str
    seeing: str = "camera"
    linear: bool = False
    mask: str = "prefix"


PAPER = "paper"
ROWS = {
    PAPER: Row("fitted grid, Ego3D in the camera's frame, prompt seen both ways"),
    "linear": Row("as many cells, of equal size", linear=True),
    "blind": Row("without Ego3D", seeing="blind"),
    "robot": Row("Ego3D in the robot's frame", seeing="robot"),
    "causal": Row("prompt seen one way, in training and in use", mask="causal"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--depth-weights", type=Path, default=Path("nano"))
    parser.add_argument("--out", type=Path, default=Path("runs/from_start"))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--vision-steps", type=int, default=3_000)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--frames", type=int, default=400, help="held-out ones to measure errors on")
    parser.add_argument("--suite", default="libero_spatial")
    parser.add_argument("--tasks", nargs="*", type=int, default=None, help="of the suite, all unless given")
    parser.add_argument("--episodes-per-task", type=int, default=10, help="0 plays none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of training")
    options = parser.parse_args()
    for name in options.rows:
        row, folder = ROWS[name], options.out / name
        torch.set_num_threads(options.threads)
        if not (folder / "model" / "config.json").exists():
            run(policy_stage(row, folder, options))
        with used_as_trained(row):
            if not (folder / "errors.json").exists():
                errors = measured(folder / "model", options.dataset, HELD_OUT, options.frames)
                write_json(folder / "errors.json", errors)
            if options.episodes_per_task and played(folder) is None:
                play(folder, options.suite, options.episodes_per_task, options.tasks, workers=1)
        rows = found(options.out)
        write_json(options.out / "rows.json", rows)
        (options.out / "table.md").write_text(table(rows))
    print(table(rows))


# ---------------------------------------------------------------- training


def run(config: TrainConfig) -> Path:
    """The folder of the model that a run leaves; a run that was stopped goes on."""
    model = config.out / "model"
    if not (model / "config.json").exists():
        result = train(config, resume=True, console=Console(stderr=True))
        if result.model is None:
            raise SystemExit("Stopped; the same command goes on.")
    return model


def recipe(start: Path | None, out: Path, options: argparse.Namespace, vision_steps: int) -> TrainConfig:
    """nano's, in so many steps instead of an hour."""
    whole = nano(None if start is None else str(start))
    return replace(
        whole,
        guidance=replace(whole.guidance, vision_steps=vision_steps),
        datasets=(DatasetConfig(options.dataset),),
        out=out,
        cache=options.out / "cache",
        depth_weights=options.depth_weights if start is None else None,
        minutes=None,
        steps=options.steps,
        batch_size=options.batch_size,
        held_out=HELD_OUT,
        compile=shutil.which("g++") is not None,
        eval_every=500,
        save_every=250,
        keep=1,
        trackers=(),
        seed=SEED,
    )


def moving_no_weight(config: TrainConfig) -> TrainConfig:
    """A run that exports what it starts from, or what its vision stage has learned."""
    return replace(config, steps=1, learning_rate=1e-12)


def random_weights(seeing: str, options: argparse.Namespace) -> Path:
    """The weights that all rows begin with, of which those without Ego3D leave that out."""
    config = recipe(None, options.out / "start", options, 0)
    start = run(replace(moving_no_weight(config), compile=False))
    return without_ego3d(start, options.out / "start-without-ego3d") if seeing == "blind" else start


def vision_stage(seeing: str, options: argparse.Namespace) -> Path:
    start, out = random_weights(seeing, options), options.out / f"vision-{seeing}"
    return run(moving_no_weight(replace(recipe(start, out, options, options.vision_steps), **SEEING[seeing])))


def policy_stage(row: Row, folder: Path, options: argparse.Namespace) -> TrainConfig:
    start = vision_stage(row.seeing, options)
    if row.linear:
        start = on_linear_grid(start, folder / "start")
    return replace(recipe(start, folder, options, 0), **SEEING[row.seeing], mask=row.mask)


def on_linear_grid(start: Path, folder: Path) -> Path:
    """The same weights; what each action token means has not been learned yet."""
    if not (folder / "config.json").exists():
        processor = Processor.from_pretrained(start)
        shutil.copytree(start, folder, dirs_exist_ok=True)
        replace(processor, grid=ActionGrid.uniform(processor.grid.bins)).save_pretrained(folder)
    return folder


@contextmanager
def used_as_trained(row: Row) -> Iterator[None]:
    """Where the prompt was seen one way in training, it is so in use, which policies otherwise never do."""
    if row.mask == "prefix":
        yield
    else:
        with patch.object(Layout, "visible", seen_one_way):
            yield


def seen_one_way(layout: Layout, slots_T: torch.Tensor) -> torch.Tensor:
    """(B, T, S): the slots up to each one itself."""
    keys = torch.arange(layout.real_BS.shape[1], device=slots_T.device)
    return (keys <= slots_T[:, None]) & layout.real_BS[:, None, :]


# ---------------------------------------------------------------- the table


def found(out: Path) -> dict[str, dict[str, Any]]:
    """Of the rows that are done: errors with their intervals, and the start states by task that were solved."""
    errors = {name: read_json(path) for name in ROWS if (path := out / name / "errors.json").exists()}
    rows: dict[str, dict[str, Any]] = {}
    for name, own in errors.items():
        rows[name] = {"episodes": len(own), "errors": {part: interval(own, part) for part in PARTS}}
        if name != PAPER and PAPER in errors:
            less = difference(own, errors[PAPER])
            rows[name]["less paper's"] = {part: interval(less, part) for part in PARTS}
        if (results := played(out / name)) is not None:
            outcomes: dict[str, dict[str, bool]] = {str(task): {} for task in results.tasks}
            for episode in results.episodes:
                outcomes[str(episode.task)][str(episode.start_state)] = episode.success
            rows[name]["success by task and start state"] = outcomes
    return rows


def difference(errors: Errors, others: Errors) -> Errors:
    """By sample, which are the same ones in all rows."""
    return {
        episode: {
            part: [one - other for one, other in zip(values, others[episode][part], strict=True)]
            for part, values in parts.items()
        }
        for episode, parts in errors.items()
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """What was found, as Markdown: two tables, of the rows and of how they differ from the first."""
    lines = ["| row | translation | rotation | gripper wrong | success |", "|---|---:|---:|---:|---:|"]
    for name, row in rows.items():
        errors = (f"{mean:.3f} ({low:.3f} – {high:.3f})" for mean, low, high in row["errors"].values())
        lines.append(
            f"| `{name}`: {ROWS[name].title} | {' | '.join(errors)} | {success(outcomes(row).values())} |"
        )
    lines += [
        "",
        f"| less `{PAPER}` | translation | rotation | gripper wrong | solved by `{PAPER}` alone : by this alone |",
    ]
    lines.append("|---|---:|---:|---:|---:|")
    for name, row in rows.items():
        if name != PAPER:
            less = row["less paper's"].values()
            cells = (f"{mean:+.4f} ({low:+.4f} – {high:+.4f})".replace("-", "−") for mean, low, high in less)
            lines.append(
                f"| `{name}` | {' | '.join(cells)} | {split(outcomes(rows[PAPER]), outcomes(row))} |"
            )
    return "\n".join(lines) + "\n"


def outcomes(row: dict[str, Any]) -> dict[tuple[str, str], bool]:
    """(Task, start state) -> whether it was solved; empty before the rollouts."""
    by_task = row.get("success by task and start state", {})
    return {(task, state): solved for task, states in by_task.items() for state, solved in states.items()}


def split(first: dict[tuple[str, str], bool], second: dict[tuple[str, str], bool]) -> str:
    """How many episodes one solved alone, and the other, and McNemar's exact p."""
    if not first or not second:
        return "–"
    pairs = Pairs.of((first[episode], second[episode]) for episode in first)
    return f"{pairs.first} : {pairs.second}, p = {p_text(pairs.p_value)}"


if __name__ == "__main__":
    main()
