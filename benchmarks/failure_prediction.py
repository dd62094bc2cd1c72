"""How early and how well a policy's uncertainty predicts that an episode fails, as tables and pictures.

python benchmarks/failure_prediction.py runs/unsure --out docs/images

The results are those of `spatialvla evaluate --uncertainty`. At a step only decisions up to it count, and only
episodes that are still under way: one that has ended needs no prediction. Intervals are those of a bootstrap over
episodes (95 %), of shares Wilson's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from failure_prediction_figures import draw_auroc, draw_calibration, draw_stopping
from failure_prediction_measures import (
    SUMMARIES,
    Auroc,
    Calibration,
    Rule,
    Stops,
    by_step,
    calibration,
    chosen,
    held_out_stops,
    mean_above,
    rules_above,
    rules_later,
    stops,
    under_way,
)
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.intervals import wilson_interval
from spatialvla.evaluation.results.outcomes import EpisodeResult

KINDS = {
    "translation": "translation, bits",
    "rotation": "rotation, bits",
    "gripper": "gripper, bits",
    "bits": "all three, bits",
    "spread_mm": "spread, mm",
}
BOTH = ("bits", "spread_mm")
"""What `serve --stop-above` knows limits of."""


@dataclass(frozen=True)
class Options:
    results: Annotated[Path, tyro.conf.Positional]
    """An evaluation's folder or results file."""

    out: Path = Path("docs/images")

    every: int = 8
    """Steps between two predictions."""

    calibrate: tuple[int, ...] = (40, 60, 80)
    """Steps at which probabilities are held against outcomes."""

    limits: tuple[float, ...] = (10, 12, 14, 16, 18, 20, 22, 24)
    """Millimeters of spread above which to stop."""


def main(options: Options) -> None:
    path = options.results / "results.json" if options.results.is_dir() else options.results
    results = Results.load(path)
    episodes = [episode for episode in results.episodes if episode.uncertainty]
    print(f"{len(episodes)} episodes of {results.suite}, {sum(not each.success for each in episodes)} failed")
    curves = {
        (kind, summary): by_step(episodes, options.every, kind, summary)
        for kind in KINDS
        for summary in SUMMARIES
    }
    rates = by_step(episodes, options.every, "task", "")
    within = {
        kind: by_step(episodes, options.every, kind, "mean", within_task=True) for kind in ("rotation", *BOTH)
    }
    found = {kind: [calibration(episodes, kind, step) for step in options.calibrate] for kind in BOTH}
    families: dict[str, Mapping[float, Rule]] = {
        "mean spread": rules_above(episodes, "spread_mm"),
        "mean entropy": rules_above(episodes, "bits"),
        "time alone": rules_later(episodes),
    }
    for table in (
        auroc_table(episodes, curves, rates),
        within_table(episodes, within),
        calibration_table(found, options.calibrate),
        limits_table(episodes, options.limits),
        stopping_table(episodes, families),
    ):
        print("", *table, sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    counts = under_way(episodes, options.every)
    draw_auroc(options.out / "uncertainty_auroc.svg", curves, rates, KINDS, counts)
    draw_calibration(options.out / "uncertainty_calibration.svg", found["spread_mm"], options.calibrate)
    lines = {name: [stops(episodes, rule) for rule in rules.values()] for name, rules in families.items()}
    tenth = {
        name: stops(episodes, chosen(episodes, list(rules.values()), 0.1)) for name, rules in families.items()
    }
    longest = max(episode.steps for episode in episodes)
    draw_stopping(options.out / "uncertainty_stopping.svg", lines, tenth, longest)


def auroc_table(
    episodes: Sequence[EpisodeResult],
    curves: Mapping[tuple[str, str], Mapping[int, Auroc]],
    rates: Mapping[int, Auroc],
) -> Iterator[str]:
    steps, counts = list(rates)[::2], under_way(episodes, 1)
    yield _head("", steps)
    yield _row("under way: fail, succeed", ("{}, {}".format(*counts[step]) for step in steps))
    for (kind, summary), found in curves.items():
        yield _row(f"{KINDS[kind]}: {summary}", (str(found[step]) for step in steps))
    yield _row("the task's failure rate", (str(rates[step]) for step in steps))


def within_table(
    episodes: Sequence[EpisodeResult], within: Mapping[str, Mapping[int, Auroc]]
) -> Iterator[str]:
    """Failures are compared with successes of their own task alone."""
    steps = list(within["bits"])[::2]
    yield _head("within a task", steps)
    yield _row("pairs, of tasks", (_pairs(episodes, step) for step in steps))
    for kind, found in within.items():
        yield _row(f"{KINDS[kind]}: mean", (str(found[step]) for step in steps))


def _pairs(episodes: Sequence[EpisodeResult], step: int) -> str:
    now = [episode for episode in episodes if episode.steps > step]
    outcomes = [[each.success for each in now if each.task == task] for task in {each.task for each in now}]
    pairs = [each.count(False) * each.count(True) for each in outcomes]
    return f"{sum(pairs)} of {np.count_nonzero(pairs)}"


def calibration_table(found: Mapping[str, Sequence[Calibration]], steps: Sequence[int]) -> Iterator[str]:
    yield "| step | mean of | predicted → failed, by quarter | Brier score | of the failure rate alone |"
    yield "|---:|---|---|---:|---:|"
    for kind, each in found.items():
        for step, one in zip(steps, each, strict=True):
            quarters = "; ".join(f"{b.predicted:.0%} → {b.failed} of {b.episodes}" for b in one.bins)
            yield f"| {step} | {KINDS[kind]} | {quarters} | {one.brier:.3f} | {one.base:.3f} |"


def limits_table(episodes: Sequence[EpisodeResult], limits: Sequence[float]) -> Iterator[str]:
    """Limits as they do in the same episodes that one would choose them by."""
    yield "| mean spread above | failures stopped | at step, median | successes lost |"
    yield "|---:|---:|---:|---:|"
    for limit in limits:
        yield f"| {limit:g} mm | {_cells(stops(episodes, mean_above('spread_mm', limit)))} |"


def stopping_table(
    episodes: Sequence[EpisodeResult], families: Mapping[str, Mapping[float, Rule]]
) -> Iterator[str]:
    """Limits that are chosen in four fifths of the start states, at work in the fifth."""
    yield "| rule | may lose | failures stopped | at step, median | successes lost |"
    yield "|---|---:|---:|---:|---:|"
    for share in (0.05, 0.1, 0.2):
        for name, rules in families.items():
            found = held_out_stops(episodes, list(rules.values()), share)
            yield f"| {name} | {share:.0%} | {_cells(found)} |"


def _cells(found: Stops) -> str:
    at = f"{np.median(found.steps):.0f}" if found.steps else "–"
    return f"{_share(found.stopped, found.failures)} | {at} | {_share(found.lost, found.successes)}"


def _share(count: int, of: int) -> str:
    low, high = wilson_interval(count, of)
    return f"{count} of {of} ({100 * low:.0f} – {100 * high:.0f} %)"


def _head(title: str, steps: Sequence[int]) -> str:
    return _row(title, (f"step {step}" for step in steps)) + f"\n|---|{'---:|' * len(steps)}"


def _row(title: str, cells: Iterator[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
