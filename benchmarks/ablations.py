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
from typing import Any

from rich.console import Console

from ablation_rows import PARTS, SEED, interval, measured, play, played, success, without_ego3d
from spatialvla.common.json_files import write_json
from spatialvla.training.config import DatasetConfig
from spatialvla.training.loop import train
from spatialvla.training.recipes import finetune

HELD_OUT = 0.3


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
            write_json(folder / "errors.json", measured(model, options.dataset, HELD_OUT, options.frames))
        if options.episodes_per_task and played(folder) is None:
            play(folder, options.suite, options.episodes_per_task, options.tasks)
    table = render(options.out)
    (options.out / "table.md").write_text(table)
    print(table)


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


def render(out: Path) -> str:
    """The rows that are done, as Markdown."""
    lines = [
        "| fine-tuning | translation | rotation | gripper wrong | success |",
        "|---|---:|---:|---:|---:|",
    ]
    rows = {}
    for name, row in ROWS.items():
        path = out / name / "errors.json"
        if path.exists():
            errors = json.loads(path.read_text())
            cells = {part: interval(errors, part) for part in PARTS}
            rows[name] = cells | {"episodes": len(errors)}
            numbers = (f"{mean:.3f} ({low:.3f} – {high:.3f})" for mean, low, high in cells.values())
            results = played(out / name)
            successes = success([episode.success for episode in results.episodes] if results else [])
            lines.append(f"| {row.title} | {' | '.join(numbers)} | {successes} |")
    write_json(out / "rows.json", rows)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
