"""An evaluation as one HTML page: its success table, its videos, and what the policy saw and chose."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import av
from PIL import Image

from spatialvla.actions.grids import ActionGrid
from spatialvla.common.files import inside
from spatialvla.evaluation.play.decisions import KeptDecision
from spatialvla.evaluation.report.exam_table import exam_table
from spatialvla.evaluation.report.facts import checkpoint_words, facts
from spatialvla.evaluation.report.legends import CURVES, NUMBERS, PICTURES
from spatialvla.evaluation.report.page import (
    facts_list,
    html_table,
    interval_bar,
    interval_words,
    page,
    titled_table,
    write_page,
)
from spatialvla.evaluation.report.tables import percent, success_table
from spatialvla.evaluation.report.uncertainty_curves import Scale, episode_curve, uncertainty_section
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.exam_scores import is_exam
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.policy import Policy
from spatialvla.viz.action_grid import grid_figure
from spatialvla.viz.drawing import webp
from spatialvla.viz.figures import depth_figure, joint_cloud_figure, point_cloud_figure
from spatialvla.viz.scenes import SeenScene, seen_scenes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150
_MANY = 6
"""Episodes of a task above which their videos are shown smaller."""
_DEPTH = {
    "estimate": "depth is the model's own estimate",
    "simulator": "depth is the simulator's, in place of the estimate",
}


def write_report(
    results: Results, decisions: Mapping[int, Sequence[KeptDecision]], policy: Policy, path: Path
) -> None:
    """Writes the page beside the results' file and the folder of videos.

    decisions: task number -> decisions to show. policy: estimates their depth once more, and knows the grid.
    """
    chosen = {
        task: "".join(
            _decision(results.first_start_states[task], decision, scenes, policy.processor.grid)
            for decision, scenes in zip(
                kept, seen_scenes(policy, [each.observation for each in kept]), strict=True
            )
        )
        for task, kept in decisions.items()
        if kept
    }
    sections = (_task(results, task, path.parent, chosen.get(task, "")) for task in results.planned_tasks)
    body = f"""{_asked(results)}
{titled_table(exam_table(results), kind="methods") if is_exam(results) else ""}
<h2>Success by task</h2>
{html_table(success_table(results), [_task_label(results, task) for task in results.planned_tasks])}
{NUMBERS}
{_unsure(results)}
<div class="toolbar"><h2>Episodes</h2><button type="button" hidden>Play all</button></div>
{PICTURES if chosen else ""}
{"".join(sections)}
<h2>How this was measured</h2>
{facts_list(facts(results))}"""
    html = page(
        f"{results.policy} on {results.suite}",
        f"{_inputs(results)} in, actions out; {_DEPTH[results.depth]}.",
        body,
        beside=_score(results),
        styles=("style.css", "results.css"),
        script="script.js",
    )
    write_page(path, html)


def _unsure(results: Results) -> str:
    section = uncertainty_section(results)
    return section and section + CURVES


def _inputs(results: Results) -> str:
    """What the policy was given."""
    rules = results.conventions
    images = "Image" if ";" not in rules.camera else "Images of several cameras"
    state = ", the arm's state" if rules.state else ""
    return f"{images}, instruction{state} and camera intrinsics"


def _asked(results: Results) -> str:
    """What was evaluated, and how to do it again."""
    command = f"<pre><code>{escape(results.command)}</code></pre>" if results.command else ""
    return f"""<p class="asked muted">Checkpoint {escape(checkpoint_words(results))}</p>{command}"""


def _score(results: Results) -> str:
    total = results.total
    words = f"{total.successes} of {total.trials} episodes succeeded, {interval_words(total)}"
    return f"""<div class="score"><strong>{percent(total)}</strong>{interval_bar(total)}
<span class="muted">{words}</span></div>"""


def _task_label(results: Results, task: int) -> str:
    """The instruction, which leads to the task's section, and a mark for each episode, which leads to it."""
    marks = "".join(
        f'<a href="#{_anchor(episode)}" title="Start {episode.start_state}: {_outcome(episode)}"'
        + (">✓</a>" if episode.success else ' class="failed">×</a>')
        for episode in _episodes(results, task)
    )
    return f'<a href="#task{task}">{escape(results.tasks[task])}</a><span class="marks">{marks}</span>'


def _task(results: Results, task: int, out: Path, decisions: str) -> str:
    tally = results.tally(task)
    played = _episodes(results, task)
    scale = Scale.of(results)
    episodes = "".join(_episode(episode, out, scale) for episode in played)
    many = " many" if len(played) > _MANY else ""
    return f"""<section id="task{task}">
<h3>{escape(results.tasks[task])}</h3>
<p class="muted">{tally.successes} of {tally.trials} succeeded, {interval_words(tally)}</p>
<ol class="episodes{many}">{episodes}</ol>
{decisions}
</section>"""


def _episodes(results: Results, task: int) -> list[EpisodeResult]:
    return [episode for episode in results.episodes if episode.task == task]


def _anchor(episode: EpisodeResult) -> str:
    return f"task{episode.task}-start{episode.start_state}"


def _outcome(episode: EpisodeResult) -> str:
    return "✓ Success" if episode.success else "× Failure"


def _episode(episode: EpisodeResult, out: Path, scale: Scale) -> str:
    halfway = ", partial success" if episode.partial and not episode.success else ""
    note = f"Start {episode.start_state} · {episode.steps} steps, {episode.seconds:.0f} s{halfway}"
    curve = episode_curve(episode, scale)
    return f"""<li id="{_anchor(episode)}">{_video(out, episode)}
<div class="caption"><b class="{"good" if episode.success else "bad"}">{_outcome(episode)}</b>
<span class="muted">{note}</span></div>{curve}</li>"""


def _video(out: Path, episode: EpisodeResult) -> str:
    """The episode's video, or why there is none."""
    if episode.video is None:
        return ""
    try:
        path = inside(out, episode.video)
        source = _data_url("video/mp4", path.read_bytes())
        last = _last_frame(path)
        poster = _data_url("image/jpeg", _jpeg(last))
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be shown"
        return f'<p class="muted">The video {escape(episode.video)} {reason}.</p>'
    return (
        f'<video controls muted loop playsinline preload="none" width="{last.width}" height="{last.height}" '
        f'poster="{poster}" src="{source}" aria-label="Start {episode.start_state}"></video>'
    )


def _last_frame(video: Path) -> Image.Image:
    """The frame that shows how it ended."""
    with av.open(str(video)) as container:
        *_, last = container.decode(video=0)
    return Image.fromarray(last.to_ndarray(format="rgb24"))


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _decision(start_state: int, decision: KeptDecision, scenes: Sequence[SeenScene], grid: ActionGrid) -> str:
    """What the policy saw and chose."""
    gripper = ", ".join("open" if action[6] >= 0.5 else "closed" for action in decision.chunk.actions)
    figures = (
        *_pictures(scenes),
        _figure(
            grid_figure(grid, tokens=decision.chunk.tokens),
            f"The chosen tokens on the action grid, marked by their step. Gripper by step: {gripper}",
        ),
    )
    return f"""<div class="decision"><p class="muted">Start {start_state}, decision at step {decision.step}</p>
<div class="figures">{"".join(figures)}</div></div>"""


def _pictures(scenes: Sequence[SeenScene]) -> Iterator[str]:
    """Depth of each camera, and the points of all: in one space where it is known where each one stands."""
    if len(scenes) == 1:
        (only,) = scenes
        cloud = point_cloud_figure(only.image, only.depth, only.intrinsics)
        yield _figure(
            depth_figure(only.depth, only.image), "What the policy saw, and how far each pixel is, in meters"
        )
        yield _figure(cloud, "The same pixels as points in space, from two sides; the bar is a length there")
        return
    for scene in scenes:
        yield _figure(
            depth_figure(scene.depth, scene.image, scene.name),
            f"What the camera {scene.name} saw, and how far each pixel is, in meters",
        )
    if all(scene.pose is not None for scene in scenes):
        yield _figure(
            joint_cloud_figure(scenes),
            "The pixels of all cameras as points in one space, the robot's, from two sides; the bar is a length there",
        )
        yield _figure(
            joint_cloud_figure(scenes, by_camera=True),
            "The same points, in one color for each camera that saw them",
        )
        return
    for scene in scenes:
        yield _figure(
            point_cloud_figure(scene.image, scene.depth, scene.intrinsics),
            f"The pixels of the camera {scene.name} as points in space, from two sides; the bar is a length there",
        )


def _figure(figure: Figure, caption: str) -> str:
    source = _data_url("image/webp", webp(figure, _DPI))
    return (
        f'<figure><img loading="lazy" alt="{escape(caption)}" src="{source}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
