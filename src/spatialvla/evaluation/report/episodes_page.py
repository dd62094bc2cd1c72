"""An evaluation's results, videos and kept decisions as the page `viz.report` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spatialvla.evaluation.play.moments import Moment
from spatialvla.evaluation.report.html_episodes import DecisionView, EpisodeView, Report, TaskView
from spatialvla.evaluation.report.rates import Rate
from spatialvla.evaluation.report.summary import facts
from spatialvla.evaluation.results.outcomes import EpisodeResult, Results, Tally
from spatialvla.policy import Policy

_DEPTH = {
    "estimate": "depth is the model's own estimate",
    "simulator": "depth is the simulator's, in place of the estimate",
}


def write_report(
    results: Results, moments: Mapping[int, Sequence[Moment]], policy: Policy, path: Path
) -> None:
    """Writes the page beside the results' file and the folder of videos.

    moments: task number -> decisions to show. policy: estimates their depth once more, and knows the grid.
    """
    report = Report(
        title=f"{results.policy} on {results.suite}",
        subtitle=f"Image, instruction and camera intrinsics in, actions out; {_DEPTH[results.depth]}.",
        total=_rate(results.total),
        tasks=tuple(
            _task(results, task, moments.get(task, ()), policy, path.parent) for task in results.planned_tasks
        ),
        facts=tuple(facts(results).items()),
        grid=policy.processor.grid,
    )
    report.save(path)


def _task(results: Results, task: int, moments: Sequence[Moment], policy: Policy, out: Path) -> TaskView:
    episodes = [episode for episode in results.episodes if episode.task == task]
    return TaskView(
        title=results.tasks[task],
        rate=_rate(results.tally(task)),
        steps=results.mean_steps(task),
        episodes=tuple(_episode(episode, out) for episode in episodes),
        decisions=_decisions(moments, policy) if moments else (),
    )


def _episode(episode: EpisodeResult, out: Path) -> EpisodeView:
    return EpisodeView(
        title=f"Start {episode.start_state}",
        note=_note(episode),
        success=episode.success,
        video=out / episode.video if episode.video else None,
    )


def _note(episode: EpisodeResult) -> str:
    halfway = ", partial success" if episode.partial and not episode.success else ""
    return f"{episode.steps} steps, {episode.seconds:.0f} s{halfway}"


def _decisions(moments: Sequence[Moment], policy: Policy) -> tuple[DecisionView, ...]:
    depths = policy.depth([moment.observation for moment in moments])
    return tuple(
        DecisionView(
            title=f"Start 0, decision at step {moment.step}",
            image=np.asarray(moment.observation.image),
            depth=depth,
            intrinsics=np.asarray(moment.observation.intrinsics),
            tokens=moment.chunk.tokens,
        )
        for moment, depth in zip(moments, depths, strict=True)
    )


def _rate(tally: Tally) -> Rate:
    return Rate(tally.successes, tally.trials, *tally.interval)
