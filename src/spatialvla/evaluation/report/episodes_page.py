"""An evaluation's results, videos and kept decisions as the page `viz.report` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spatialvla.evaluation.play.decisions import KeptDecision
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
    results: Results, decisions: Mapping[int, Sequence[KeptDecision]], policy: Policy, path: Path
) -> None:
    """Writes the page beside the results' file and the folder of videos.

    decisions: task number -> decisions to show. policy: estimates their depth once more, and knows the grid.
    """
    report = Report(
        title=f"{results.policy} on {results.suite}",
        subtitle=f"Image, instruction and camera intrinsics in, actions out; {_DEPTH[results.depth]}.",
        total=_rate(results.total),
        tasks=tuple(
            _task(results, task, decisions.get(task, ()), policy, path.parent)
            for task in results.planned_tasks
        ),
        facts=tuple(facts(results).items()),
        grid=policy.processor.grid,
    )
    report.save(path)


def _task(
    results: Results, task: int, decisions: Sequence[KeptDecision], policy: Policy, out: Path
) -> TaskView:
    episodes = [episode for episode in results.episodes if episode.task == task]
    return TaskView(
        title=results.tasks[task],
        rate=_rate(results.tally(task)),
        steps=results.mean_steps(task),
        episodes=tuple(_episode(episode, out) for episode in episodes),
        decisions=_decisions(decisions, policy) if decisions else (),
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


def _decisions(decisions: Sequence[KeptDecision], policy: Policy) -> tuple[DecisionView, ...]:
    depths = policy.depth([decision.observation for decision in decisions])
    return tuple(
        DecisionView(
            title=f"Start 0, decision at step {decision.step}",
            image=np.asarray(decision.observation.image),
            depth=depth,
            intrinsics=np.asarray(decision.observation.intrinsics),
            tokens=decision.chunk.tokens,
        )
        for decision, depth in zip(decisions, depths, strict=True)
    )


def _rate(tally: Tally) -> Rate:
    return Rate(tally.successes, tally.trials, *tally.interval)
