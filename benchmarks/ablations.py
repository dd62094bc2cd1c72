"""What the paper's ideas are worth for fine-tuning: modes, action grids and Ego3D, all from one start, on one dataset.

    spatialvla record --suite libero_90 --tasks 9 12 13 14 --episodes-per-task 10 --out datasets/bowls
    python benchmarks/ablations.py --dataset datasets/bowls --start nano --out runs/ablations [--rows full lora …]
    python benchmarks/ablations.py … --suite libero_90 --tasks 9 12 13 14 --episodes-per-task 5    # and rollouts

Every row fine-tunes the same start for the same number of steps on the same episodes, and is measured on the
same held-out ones: the absolute error of the actions that the policy generates freely, mean over samples,
with the 95 % interval of a bootstrap over episodes. With --episodes-per-task each row also plays the tasks,
from the stored start states, in none of which a demonstration began. What is done is not repeated. Writes
<out>/table.md and <out>/rows.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console

from spatialvla.common.json_files import write_json
from spatialvla.data.batches import evaluation_batches
from spatialvla.data.sources import open_source
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.provenance import settings_of
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.policy import Policy
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig
from spatialvla.training.loop import train
from spatialvla.training.metrics import prompts_of
from spatialvla.training.recipes import finetune

HELD_OUT, SEED = 0.3, 0
RESAMPLES = 2_000


@dataclass(frozen=True)
class Row:
    """One line of the table. changes: of the fine-tuning; without any the start is measured as it is."""

    title: str
    changes: dict[str, Any] | None = None
    ego3d: bool = True


ROWS = {
    "none": Row("not fine-tuned"),
    "full": Row("full", {"mode": "full"}),
    "lora": Row("LoRA", {"mode": "lora"}),
    "adapt": Row("adaptation: new grid, its embeddings and Ego3D's MLP alone", {"mode": "adapt"}),
    "full-grid": Row("full, on the new grid", {"mode": "full", "new_grid": True}),
    "lora-grid": Row("LoRA, on the new grid", {"mode": "lora", "new_grid": True}),
    "full-linear": Row("full, on a linear grid", {"mode": "full", "new_grid": True, "grid": "uniform"}),
    "lora-linear": Row("LoRA, on a linear grid", {"mode": "lora", "new_grid": True, "grid": "uniform"}),
    "adapt-linear": Row("adaptation to a linear grid", {"mode": "adapt", "grid": "uniform"}),
    "full-blind": Row("full, without Ego3D", {"mode": "full"}, ego3d=False),
    "lora-blind": Row("LoRA, without Ego3D", {"mode": "lora"}, ego3d=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--start", default="nano")
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--frames", type=int, default=240)
    parser.add_argument("--suite", default="libero_90")
    parser.add_argument("--tasks", nargs="*", type=int, default=None)
    parser.add_argument("--episodes-per-task", type=int, default=0)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args()
    starts = {
        True: options.start,
        False: str(without_ego3d(options.start, options.out / "start-without-ego3d")),
    }
    for name in options.rows:
        folder = options.out / name
        if not (folder / "errors.json").exists():
            row = ROWS[name]
            model = trained(row, starts[row.ego3d], folder, options)
            write_json(folder / "errors.json", measured(model, options.dataset, options.frames))
        if options.episodes_per_task and not (folder / "rollouts" / "results.json").exists():
            play(folder, options)
    table = render(options.out)
    (options.out / "table.md").write_text(table)
    print(table)


def without_ego3d(start: str, folder: Path) -> Path:
    """The start with its position encoding taken out; fine-tuning may make up for it."""
    if not (folder / "config.json").exists():
        whole = SpatialVLA.from_pretrained(start)
        blind = SpatialVLA(whole.config.replace(use_vision_zoe=False))
        kept = {name: t for name, t in whole.state_dict().items() if name in blind.state_dict()}
        blind.load_state_dict(kept)
        Processor.from_pretrained(start).save_pretrained(folder)
        blind.save_pretrained(folder)
    return folder


def trained(row: Row, start: str, folder: Path, options: argparse.Namespace) -> Path:
    """The folder of the row's model; a run that was stopped goes on."""
    changes = row.changes or {"mode": "full", "steps": 1, "learning_rate": 1e-12}  # moves no weight
    config = replace(
        finetune(changes["mode"], start),
        **{
            "datasets": (DatasetConfig(options.dataset),),
            "out": folder,
            "steps": options.steps,
            "batch_size": options.batch_size,
            "workers": 0,
            "held_out": HELD_OUT,
            "eval_frames": 32,
            "seed": SEED,
            "eval_every": 10_000,
            "save_every": 10_000,
            **changes,
        },
    )
    result = train(config, resume=True, console=Console(stderr=True))
    assert result.model is not None
    return result.model


@torch.no_grad()
def measured(folder: Path, dataset: str, frames: int) -> dict[str, dict[str, list[float]]]:
    """Absolute errors by episode: translation and rotation in the dataset's units, and of the gripper 0 or 1."""
    model, processor = SpatialVLA.from_pretrained(folder), Processor.from_pretrained(folder)
    mixture = TrainingMixture.open([open_source(dataset)], held_out=HELD_OUT, seed=SEED)
    errors: dict[str, dict[str, list[float]]] = {}
    for loaded in evaluation_batches(mixture, processor, 32, frames):
        tokens = model.generate(prompts_of(loaded.batch))
        error = np.abs(processor.decode(tokens, [mixture.keys[0]] * len(loaded.batch)) - loaded.actions)
        for name, one in zip(loaded.names, error, strict=True):
            episode = errors.setdefault(name.rpartition(" step ")[0], {})
            parts = {"translation": one[:, :3], "rotation": one[:, 3:6], "gripper": one[:, 6] > 0.5}
            for part, values in parts.items():
                episode.setdefault(part, []).append(float(values.mean()))
    return errors


def play(folder: Path, options: argparse.Namespace) -> None:
    """Rollouts of the row's model, in <folder>/rollouts; they appear there once they are complete."""
    from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark

    torch.set_num_threads(1)  # the simulators have the other cores
    with TemporaryDirectory(dir=folder) as partial:
        policy = Policy.from_pretrained(folder / "model")
        evaluate(
            policy,
            options.suite,
            options.episodes_per_task,
            benchmark=LiberoBenchmark(),
            settings=settings_of(policy),
            out=Path(partial),
            tasks=options.tasks,
            name=folder.name,
            videos=False,
        )
        (folder / "rollouts").mkdir()
        (Path(partial) / "results.json").rename(folder / "rollouts" / "results.json")


def success(folder: Path) -> str:
    """Successes and their 95 % interval as a cell of the table."""
    path = folder / "rollouts" / "results.json"
    if not path.exists():
        return "–"
    tally = Results.load(path).total
    low, high = tally.interval
    return f"{tally.successes}/{tally.trials} ({low:.0%} – {high:.0%})"


def render(out: Path) -> str:
    """The rows that are done, as Markdown."""
    lines = [
        "| fine-tuning | translation | rotation | gripper wrong | success |",
        "|---|---:|---:|---:|---:|",
    ]
    results = {}
    for name, row in ROWS.items():
        path = out / name / "errors.json"
        if path.exists():
            errors = json.loads(path.read_text())
            cells = {part: interval(errors, part) for part in ("translation", "rotation", "gripper")}
            results[name] = cells | {"episodes": len(errors)}
            numbers = (f"{mean:.3f} ({low:.3f} – {high:.3f})" for mean, low, high in cells.values())
            lines.append(f"| {row.title} | {' | '.join(numbers)} | {success(out / name)} |")
    write_json(out / "rows.json", results)
    return "\n".join(lines) + "\n"


def interval(errors: dict[str, dict[str, list[float]]], part: str) -> tuple[float, float, float]:
    """Mean over samples, and the 95 % interval of a bootstrap over episodes, whose samples are not independent."""
    sums = np.array([sum(episode[part]) for episode in errors.values()])
    counts = np.array([len(episode[part]) for episode in errors.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)


if __name__ == "__main__":
    main()
