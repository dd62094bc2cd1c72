"""What `moving_cameras.py` measured as tables and pictures, and what the recorded cameras see.

python benchmarks/moving_cameras_table.py runs/moving_cameras --demos demos/libero_spatial --out docs/images

Intervals are those of a bootstrap over episodes (95 %), tests of rollouts are exact and paired by task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import numpy as np
import tyro
from matplotlib.figure import Figure
from PIL import Image

from moving_cameras import DEPTHS, PARTS, ROWS, SEEN_BY
from spatialvla.common.json_files import write_json
from spatialvla.data.lerobot import LeRobotDataset
from spatialvla.evaluation.results.comparison import compare
from spatialvla.evaluation.results.document import Results
from spatialvla.viz.drawing import INK, new_figure

CAMERAS = ("agentview", "random_0", "random_1", "wrist")
COLORS = {"robot": "#1b7f79", "camera": "#c8553d", "none": "#6c757d"}
NAMES = {"robot": "robot's frame", "camera": "camera's frame", "none": "no Ego3D"}

EPISODES, RESAMPLES = 7, 2_000


@dataclass(frozen=True)
class Options:
    runs: Annotated[Path, tyro.conf.Positional]
    """Folder that `moving_cameras.py` wrote into."""

    demos: Path
    """The recorded dataset."""

    out: Path = Path("docs/images")


def main(options: Options) -> None:
    tables(options.runs)
    options.out.mkdir(parents=True, exist_ok=True)
    cameras(LeRobotDataset(options.demos)).save(options.out / "moving_cameras.webp", quality=85, method=6)
    with new_figure(7.2, 2.9) as figure, matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_errors(figure, json.loads((options.runs / "rows.json").read_text()))
        figure.savefig(options.out / "moving_cameras_errors.svg", metadata={"Date": None})


def tables(runs: Path) -> None:
    """Writes <runs>/table.md and <runs>/rows.json."""
    files = {name: runs / name / "errors.json" for name in ROWS}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    seen = [cameras + depth for cameras in SEEN_BY for depth in DEPTHS]
    lines: list[str] = []
    for part in PARTS:
        lines += [
            f"| {part}: Ego3D's frame, trained on | {' | '.join(seen)} |",
            f"|---|{'---:|' * len(seen)}",
        ]
        for name, by_cameras in found.items():
            row = ROWS[name]
            cells = (_cell(by_cameras[each], part) if each in by_cameras else "–" for each in seen)
            title = ", ".join((row.frame or "none", row.cameras or "nano itself", *row.more_cameras))
            lines.append(f"| {title} | {' | '.join(cells)} |")
        lines.append("")
    lines += [*differences(found), "", *(f"{name}: {success(runs / name)}" for name in ROWS), *paired(runs)]
    numbers = {
        name: {each: {part: interval(errors, part) for part in PARTS} for each, errors in by_cameras.items()}
        for name, by_cameras in found.items()
    }
    write_json(runs / "rows.json", numbers)
    (runs / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _cell(errors: dict[str, dict[str, list[float]]], part: str) -> str:
    mean, low, high = interval(errors, part)
    return f"{mean:.3f} ({low:.3f} – {high:.3f})"


def differences(found: dict[str, Any]) -> Iterator[str]:
    """Paired by episode: each frame against the others, trained and seen alike."""
    yield "| trained on | seen by | difference | translation | rotation | gripper wrong |"
    yield "|---|---|---|---:|---:|---:|"
    for trained in SEEN_BY:
        for first, second in combinations(COLORS, 2):
            pair = f"{first}-{trained}", f"{second}-{trained}"
            if any(name not in found for name in pair):
                continue
            for seen in SEEN_BY:
                cells = []
                for part in PARTS:
                    mean, low, high = interval(found[pair[0]][seen], part, found[pair[1]][seen])
                    cells.append(f"{mean:+.3f} ({low:+.3f} – {high:+.3f})")
                yield f"| {trained} | {seen} | {first} less {second} | {' | '.join(cells)} |"


def interval(
    errors: dict[str, dict[str, list[float]]],
    part: str,
    other: dict[str, dict[str, list[float]]] | None = None,
) -> tuple[float, float, float]:
    """Mean over frames, and the 95 % interval of a bootstrap over episodes, whose frames are not independent.

    other: less those of another row, of the same frames.
    """
    sums = np.array([sum(episode[part]) for episode in errors.values()])
    if other is not None:
        sums = sums - np.array([sum(other[index][part]) for index in errors])
    counts = np.array([len(episode[part]) for episode in errors.values()])
    drawn = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def success(folder: Path) -> str:
    """Successes and their 95 % interval."""
    file = folder / "rollouts" / "results.json"
    if not file.exists():
        return "–"
    tally = Results.load(file).total
    low, high = tally.interval
    return f"{tally.successes}/{tally.trials} ({low:.0%} – {high:.0%})"


def paired(out: Path) -> Iterator[str]:
    """Exact tests of every two rows that were played, on the tasks that both played."""
    played = {name: file for name in ROWS if (file := out / name / "rollouts" / "results.json").exists()}
    names = list(played)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            pairs = compare(Results.load(played[first]), Results.load(played[second])).total
            yield (
                f"{first} and {second}: both {pairs.both}, only {first} {pairs.first}, only {second} "
                f"{pairs.second}, neither {pairs.neither}; p = {pairs.p_value:.2g}."
            )


def cameras(dataset: LeRobotDataset) -> Image.Image:
    """A row for each camera, a column for a demonstration of each of some tasks, a third of the way through."""
    columns = []
    for number in range(EPISODES):
        episode = dataset.episode(number * len(dataset) // EPISODES)
        step = len(episode) // 3
        columns.append([episode.frames(f"observation.images.{camera}", [step])[0] for camera in CAMERAS])
    return Image.fromarray(np.concatenate([np.concatenate(column) for column in columns], axis=1))


def draw_errors(figure: Figure, rows: dict[str, Any]) -> None:
    """Translation error with its interval: seen by the scene's own camera on the left, by others on the right."""
    axes = figure.subplots(1, 2, sharey=True)
    for axis, seen in zip(axes, SEEN_BY, strict=True):
        for number, frame in enumerate(COLORS):
            for place, trained in enumerate(SEEN_BY):
                if (found := rows.get(f"{frame}-{trained}")) is None:
                    continue
                mean, low, high = found[seen]["translation"]
                x = place + (number - 1) * 0.2
                axis.errorbar(
                    x,
                    mean,
                    [[mean - low], [high - mean]],
                    fmt="o",
                    color=COLORS[frame],
                    capsize=3,
                    label=NAMES[frame] if place == 0 or f"{frame}-fixed" not in rows else None,
                )
        if (wrist := rows.get("robot-random-wrist")) is not None:
            mean, low, high = wrist[seen]["translation"]
            axis.errorbar(2, mean, [[mean - low], [high - mean]], fmt="o", color=COLORS["robot"], capsize=3)
        axis.set_xticks(range(3), ["one fixed\ncamera", "random\ncameras", "random and\nthe wrist's"])
        axis.set_xlim(-0.5, 2.5)
        axis.set_xlabel("trained on")
        axis.set_title("seen by the fixed camera" if seen == "fixed" else "seen by unseen random cameras")
        if (shipped := rows.get("nano")) is not None:
            axis.axhline(shipped[seen]["translation"][0], color=INK, linestyle=":", label="nano as shipped")
    axes[0].set_ylim(0, 0.75)
    axes[0].set_ylabel("translation error (1 = 5 cm)")
    axes[1].legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main(tyro.cli(Options))
