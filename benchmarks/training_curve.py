"""Plot what training runs logged, one after the other: the encoder's stage, then the policy's.

python benchmarks/training_curve.py runs/first runs/nano --out docs/images/nano_curve.png
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import tyro

matplotlib.use("agg")
import matplotlib.pyplot as plt

SMOOTHING = 25  # logged steps


@dataclass(frozen=True)
class Options:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path = Path("curve.png")


def main(options: Options) -> None:
    figure, (vision, loss, error) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for run in options.runs:
        if (log := run / "vision.jsonl").exists():
            for name, color in (("regression", "C0"), ("looking", "C1")):
                plot(vision, rows(log), name, name, color=color)
                plot(vision, rows(log), f"held_out/{name}", f"{name}, held out", color=color, ls="--")
        logged = rows(run / "metrics.jsonl")
        training = [row for row in logged if row["kind"] == "train"]
        validation = [row for row in logged if row["kind"] == "validation"]
        plot(loss, training, "loss", f"tokens, {run.name}", smooth=SMOOTHING)
        plot(loss, training, "privileged_loss", f"positions, {run.name}", smooth=SMOOTHING)
        plot(error, validation, "error/translation", f"translation, {run.name}")
        plot(error, validation, "error/gripper", f"gripper, {run.name}")
    vision.set(title="encoder's stage", xlabel="step", ylabel="loss", yscale="log")
    loss.set(title="policy: training loss", xlabel="step", yscale="log")
    error.set(title="policy: held-out error, running free", xlabel="step", ylim=(0, None))
    for axes in (vision, loss, error):
        axes.legend(fontsize=7, frameon=False)
        axes.grid(alpha=0.3)
    figure.savefig(options.out, dpi=110)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def plot(axes: plt.Axes, logged: list[dict], name: str, label: str, smooth: int = 1, **style: str) -> None:
    values = np.array([row[name] for row in logged])
    window = np.ones(min(smooth, len(values))) / min(smooth, len(values))
    steps = [row["step"] for row in logged][len(window) - 1 :]
    axes.plot(steps, np.convolve(values, window, "valid"), label=label, **style)


if __name__ == "__main__":
    main(tyro.cli(Options))
