"""The pictures of `failure_prediction.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from spatialvla.viz.drawing import INK, new_figure

COLORS = {"mean": "#1b7f79", "latest": "#c8553d", "max": "#8f7ac1"}
BAD, GOOD = "#c8553d", "#1b7f79"


def draw_auroc(
    path: Path,
    curves: Mapping[tuple[str, str], Mapping[int, Any]],
    rates: Mapping[int, Any],
    titles: Mapping[str, str],
    counts: Mapping[int, tuple[int, int]],
) -> None:
    """A panel for each kind of number, and one with how many episodes there were to tell apart."""
    with _saved(path, 7.4, 4.4) as figure:
        panels = figure.subplots(2, 3, sharex=True).flat
        for panel, (kind, title) in zip(panels, titles.items(), strict=False):
            for summary, color in COLORS.items():
                found = curves[kind, summary]
                steps = list(found)
                if summary == "mean":
                    low, high = [one.low for one in found.values()], [one.high for one in found.values()]
                    panel.fill_between(steps, low, high, color=color, alpha=0.18, lw=0)
                panel.plot(steps, [one.value for one in found.values()], color=color, lw=1.4, label=summary)
            panel.plot(
                list(rates),
                [one.value for one in rates.values()],
                color=INK,
                lw=1,
                ls=":",
                label="task's rate",
            )
            panel.axhline(0.5, color=INK, lw=0.6)
            panel.set(title=title, ylim=(0, 1.02), yticks=(0, 0.5, 1))
        last = figure.axes[5]
        steps = [step for step in counts if step <= max(rates) + 16]
        for number, (label, color) in enumerate({"will fail": BAD, "will succeed": GOOD}.items()):
            last.plot(steps, [counts[step][number] for step in steps], color=color, lw=1.4, label=label)
        last.set(title="episodes under way", ylim=(0, None))
        last.legend(frameon=False, labelcolor=INK, fontsize=7)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper center", ncols=4, frameon=False, labelcolor=INK, fontsize=7
        )
        figure.axes[0].set_ylabel("AUROC")
        figure.axes[3].set_ylabel("AUROC")
        for panel in figure.axes[3:]:
            panel.set_xlabel("step")


def draw_calibration(path: Path, found: Sequence[Any], steps: Sequence[int]) -> None:
    """Predicted probabilities of failure against what happened, a panel for each step."""
    with _saved(path, 7.4, 2.7) as figure:
        for panel, one, step in zip(figure.subplots(1, len(found), sharey=True), found, steps, strict=True):
            panel.plot((0, 1), (0, 1), color=INK, lw=0.6)
            for each in one.bins:
                rate, (low, high) = each.failed / each.episodes, each.interval
                panel.errorbar(
                    each.predicted, rate, [[rate - low], [high - rate]], color=GOOD, marker="o", ms=4, lw=1
                )
            panel.set(
                title=f"step {step}",
                xlim=(0, 1),
                ylim=(-0.03, 1.03),
                xlabel="predicted to fail",
                aspect="equal",
            )
        figure.axes[0].set_ylabel("failed")


def draw_stopping(
    path: Path, lines: Mapping[str, Sequence[Any]], chosen: Mapping[str, Any], limit: int
) -> None:
    """When failures end, by the successes that are lost for it, and the share that has ended by each step.

    lines: rule -> `Stops` of each of its limits. chosen: rule -> those of one limit. limit: of an episode, in steps.
    """
    with _saved(path, 7.4, 2.9) as figure:
        when, share = figure.subplots(1, 2)
        for (name, found), color in zip(lines.items(), (GOOD, "#8f7ac1", INK), strict=True):
            lost = [100 * one.lost / one.successes for one in found]
            ends = [np.median([*one.steps, *[limit] * (one.failures - one.stopped)]) for one in found]
            when.plot(lost, ends, color=color, lw=1.4, label=name)
            steps = sorted(chosen[name].steps)
            stopped = 100 * np.arange(1, len(steps) + 1) / chosen[name].failures
            share.step([0, *steps, limit], [0, *stopped, stopped[-1]], where="post", color=color, lw=1.4)
        when.set(
            xlabel="successes lost, %", ylabel="failures end at step, median", xlim=(-1, 60), ylim=(0, limit)
        )
        share.set(xlabel="step", ylabel="failures stopped, %", xlim=(0, limit), ylim=(0, 102))
        share.set_title("limits that lose at most 10 % of successes")
        when.legend(frameon=False, labelcolor=INK, fontsize=7)


@contextmanager
def _saved(path: Path, width: float, height: float) -> Iterator[Figure]:
    with (
        new_figure(width, height) as figure,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "0"}),
    ):
        yield figure
        for panel in figure.axes:
            panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
