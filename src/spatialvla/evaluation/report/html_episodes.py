"""An evaluation as one self-contained HTML page: success table, videos, what the model saw and chose."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from spatialvla.actions.grids import ActionGrid
from spatialvla.common.files import replacing
from spatialvla.evaluation.report.rates import Rate, interval_bar, percent, range_words
from spatialvla.viz.drawing import png
from spatialvla.viz.figures import depth_figure, point_cloud_figure
from spatialvla.viz.grid import grid_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120


@dataclass(frozen=True)
class DecisionView:
    """One decision of the policy.

    image: (H, W, 3) uint8 RGB. depth: (h, w) metres over the same view.
    intrinsics: K (3, 3) in pixels of `image`. tokens: (T, 3) token numbers on the grid.
    """

    title: str
    image: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class EpisodeView:
    """One episode. video: an MP4 file; None shows none."""

    title: str
    note: str
    success: bool
    video: Path | None


@dataclass(frozen=True)
class TaskView:
    """One task. steps: the typical length of its successes, as text."""

    title: str
    rate: Rate
    steps: str
    episodes: tuple[EpisodeView, ...]
    decisions: tuple[DecisionView, ...] = ()


@dataclass(frozen=True)
class Report:
    """What the page shows. facts: (name, value) pairs about how it was measured."""

    title: str
    subtitle: str
    total: Rate
    tasks: tuple[TaskView, ...]
    facts: tuple[tuple[str, str], ...]
    grid: ActionGrid | None = None

    def save(self, path: Path) -> None:
        """Writes the page; a reader sees either the old file or the whole new one."""
        with replacing(path) as partial:
            partial.write_text(self.to_html(), encoding="utf-8")

    def to_html(self) -> str:
        """The page, with style, script, pictures and videos inside."""
        assets = files("spatialvla") / "assets" / "report"
        style = (assets / "style.css").read_text(encoding="utf-8")
        script = (assets / "script.js").read_text(encoding="utf-8")
        sections = "".join(_task(index, task, self.grid) for index, task in enumerate(self.tasks))
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(self.title)}</title>
<style>{style}</style>
</head>
<body>
{_header(self)}
{_table(self)}
<div class="bar"><h2>Episodes</h2><button type="button" hidden>Play all</button></div>
{sections}
<h2>How this was measured</h2>
<dl>{"".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in self.facts)}</dl>
<script>{script}</script>
</body>
</html>
"""


def _header(report: Report) -> str:
    total = report.total
    return f"""<header>
<div><h1>{escape(report.title)}</h1><p class="muted">{escape(report.subtitle)}</p></div>
<div class="score"><strong>{total.value:.0%}</strong>{interval_bar(total)}
<span class="muted">{total.successes} of {total.trials} episodes succeeded, {range_words(total)}</span></div>
</header>"""


def _table(report: Report) -> str:
    rows = "".join(
        f"""<tr><td><a href="#task{index}">{escape(task.title)}</a>{_marks(index, task)}</td>
<td class="number">{task.rate.successes}/{task.rate.trials}</td>
<td class="number">{percent(task.rate)}</td>
<td class="wide optional" title="{range_words(task.rate)}">{interval_bar(task.rate)}</td>
<td class="number optional">{escape(task.steps)}</td></tr>"""
        for index, task in enumerate(report.tasks)
    )
    total = report.total
    return f"""<h2>Success by task</h2>
<table>
<thead><tr><th>Task</th><th class="number">Successes</th><th class="number">Rate</th>
<th class="optional">95 % interval, 0 to 100 %</th><th class="number optional">Steps</th></tr></thead>
<tbody>{rows}</tbody>
<tfoot><tr><td>All tasks</td><td class="number">{total.successes}/{total.trials}</td>
<td class="number">{percent(total)}</td>
<td class="wide optional" title="{range_words(total)}">{interval_bar(total)}</td>
<td class="optional"></td></tr></tfoot>
</table>"""


def _marks(index: int, task: TaskView) -> str:
    marks = (
        f'<a href="#task{index}-{number}" title="{escape(episode.title)}: {_outcome(episode)}"'
        + (">✓</a>" if episode.success else ' class="failed">×</a>')
        for number, episode in enumerate(task.episodes)
    )
    return f'<span class="marks">{"".join(marks)}</span>'


def _task(index: int, task: TaskView, grid: ActionGrid | None) -> str:
    episodes = "".join(_episode(f"task{index}-{n}", episode) for n, episode in enumerate(task.episodes))
    decisions = "".join(_decision(decision, grid) for decision in task.decisions)
    return f"""<section id="task{index}">
<h3>{escape(task.title)}</h3>
<p class="muted">{task.rate.successes} of {task.rate.trials} succeeded, {range_words(task.rate)}</p>
<ol class="episodes">{episodes}</ol>
{decisions}
</section>"""


def _episode(anchor: str, episode: EpisodeView) -> str:
    colour = "good" if episode.success else "bad"
    return f"""<li id="{anchor}">{_video(episode)}
<div class="caption"><b class="{colour}">{_outcome(episode)}</b>
<span class="muted">{escape(episode.title)} · {escape(episode.note)}</span></div></li>"""


def _video(episode: EpisodeView) -> str:
    if episode.video is None:
        return ""
    source = _data_url("video/mp4", episode.video.read_bytes())
    poster = _data_url("image/jpeg", _last_frame(episode.video))
    return (
        f'<video controls muted loop playsinline preload="none" poster="{poster}" src="{source}" '
        f'aria-label="{escape(episode.title)}"></video>'
    )


def _decision(decision: DecisionView, grid: ActionGrid | None) -> str:
    saw = depth_figure(decision.depth, decision.image)
    cloud = point_cloud_figure(decision.image, decision.depth, decision.intrinsics)
    figures = [
        _figure(saw, "What the policy saw, and its depth in metres"),
        _figure(cloud, "The same pixels back-projected into space, from two angles"),
    ]
    if grid is not None:
        chosen = grid_figure(grid, tokens=decision.tokens)
        figures.append(_figure(chosen, "The action grid, with the predicted tokens marked by their step"))
    return f"""<div class="decision"><p class="muted">{escape(decision.title)}</p>
<div class="figures">{"".join(figures)}</div></div>"""


def _figure(figure: Figure, caption: str) -> str:
    source = _data_url("image/png", png(figure, _DPI))
    return (
        f'<figure><img loading="lazy" alt="{escape(caption)}" src="{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _last_frame(video: Path) -> bytes:
    """The frame that shows how it ended, as JPEG."""
    import av

    with av.open(str(video)) as container:
        *_, last = container.decode(video=0)
    buffer = io.BytesIO()
    Image.fromarray(last.to_ndarray(format="rgb24")).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _outcome(episode: EpisodeView) -> str:
    return "✓ Success" if episode.success else "× Failure"


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
