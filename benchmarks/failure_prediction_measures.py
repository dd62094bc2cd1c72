"""What `failure_prediction.py` measures: AUROC by step, calibration across start states, and rules for stopping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spatialvla.evaluation.results.intervals import wilson_interval
from spatialvla.evaluation.results.outcomes import EpisodeResult

SUMMARIES: dict[str, Callable[[np.ndarray], float]] = {
    "latest": lambda values: values[-1],
    "mean": np.mean,
    "max": np.max,
}
FEWEST = 5
"""Failures and successes under way below which no AUROC is given."""
RESAMPLES = 2_000
FOLDS = 5
BINS = 4


@dataclass(frozen=True)
class Auroc:
    """How often a failure scored above a success, with the 95 % interval of a bootstrap over episodes."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} – {self.high:.2f})"


@dataclass(frozen=True)
class Bin:
    """Episodes whose predicted probabilities of failure are alike. interval: Wilson's, of the observed rate."""

    predicted: float
    failed: int
    episodes: int

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.failed, self.episodes)


@dataclass(frozen=True)
class Calibration:
    """bins: of the predictions, which were made for start states that they did not learn from.

    brier: mean squared error of the probability. base: of the failure rate of the others, without uncertainty.
    """

    bins: tuple[Bin, ...]
    brier: float
    base: float


@dataclass(frozen=True)
class Stops:
    """What a rule for stopping does. steps: of the stopped failures, when."""

    failures: int
    stopped: int
    successes: int
    lost: int
    steps: tuple[int, ...]


Rule = Callable[[EpisodeResult], "int | None"]
"""The step at which an episode is stopped, None for never."""


# ------------------------------------------------------------------ prediction


def values_of(episode: EpisodeResult, kind: str) -> np.ndarray:
    """(decisions,) numbers of a kind."""
    return np.array(getattr(episode.uncertainty, kind))


def score(episode: EpisodeResult, kind: str, summary: str, step: int) -> float:
    """What is known at a step, from the decisions up to it."""
    known = np.array(episode.uncertainty.steps) <= step
    return SUMMARIES[summary](values_of(episode, kind)[known])


def task_rate(episodes: Sequence[EpisodeResult], episode: EpisodeResult) -> float:
    """How often its task failed in the other half of the start states, so that no episode tells of itself."""
    others = [
        not each.success
        for each in episodes
        if each.task == episode.task and each.start_state % 2 != episode.start_state % 2
    ]
    return float(np.mean(others)) if others else 0.5


def by_step(
    episodes: Sequence[EpisodeResult], every: int, kind: str, summary: str, within_task: bool = False
) -> dict[int, Auroc]:
    """Step -> AUROC among the episodes that are under way."""
    found = {}
    for step, (failing, succeeding) in under_way(episodes, every).items():
        if min(failing, succeeding) < FEWEST:
            continue
        now = [episode for episode in episodes if episode.steps > step]
        scores = [
            task_rate(episodes, episode) if kind == "task" else score(episode, kind, summary, step)
            for episode in now
        ]
        tasks = [episode.task if within_task else 0 for episode in now]
        if one := auroc(
            np.array(scores), np.array([not episode.success for episode in now]), np.array(tasks)
        ):
            found[step] = one
    return found


def under_way(episodes: Sequence[EpisodeResult], every: int) -> dict[int, tuple[int, int]]:
    """Step -> how many of the episodes that are under way are going to fail, and to succeed."""
    longest = max(episode.steps for episode in episodes)
    return {
        step: (
            sum(episode.steps > step and not episode.success for episode in episodes),
            sum(episode.steps > step and episode.success for episode in episodes),
        )
        for step in range(0, longest, every)
    }


def auroc(scores: np.ndarray, failed: np.ndarray, tasks: np.ndarray) -> Auroc | None:
    """Of pairs of one task each; None where there are no such pairs. Give one task for all to compare all."""
    high, low = scores[failed][:, None], scores[~failed][None]
    pairs = (tasks[failed][:, None] == tasks[~failed][None]).astype(float)
    right = pairs * ((high > low) + 0.5 * (high == low))
    if not pairs.any():
        return None
    drawn = np.random.default_rng(0).multinomial(
        len(scores), np.full(len(scores), 1 / len(scores)), RESAMPLES
    )
    failures, successes = drawn[:, failed], drawn[:, ~failed]
    with np.errstate(invalid="ignore"):
        resampled = ((failures @ right) * successes).sum(axis=1) / ((failures @ pairs) * successes).sum(
            axis=1
        )
    return Auroc(right.sum() / pairs.sum(), *np.nanquantile(resampled, (0.025, 0.975)))


# ----------------------------------------------------------------- calibration


def calibration(episodes: Sequence[EpisodeResult], kind: str, step: int) -> Calibration:
    """Running means as probabilities: how often episodes of other start states with such a mean failed."""
    now = [episode for episode in episodes if episode.steps > step]
    scores = np.array([score(episode, kind, "mean", step) for episode in now])
    failed = np.array([not episode.success for episode in now])
    predicted, base = np.zeros(len(now)), np.zeros(len(now))
    levels = np.zeros(len(now), int)
    for held_out, learned in folds(now):
        edges = np.quantile(scores[learned], np.arange(1, BINS) / BINS)
        level = np.digitize(scores, edges)
        for number in range(BINS):
            # One failure and one success more, so that nothing is certain.
            like = failed[learned & (level == number)]
            predicted[held_out & (level == number)] = (like.sum() + 1) / (len(like) + 2)
        levels[held_out] = level[held_out]
        base[held_out] = failed[learned].mean()
    bins = [
        Bin(
            float(predicted[levels == number].mean()),
            int(failed[levels == number].sum()),
            int((levels == number).sum()),
        )
        for number in range(BINS)
        if (levels == number).any()
    ]
    return Calibration(
        tuple(bins), float(np.mean((predicted - failed) ** 2)), float(np.mean((base - failed) ** 2))
    )


def folds(episodes: Sequence[EpisodeResult]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Which are held out, and which are learned from: start states are never in both."""
    fold = np.array([episode.start_state % FOLDS for episode in episodes])
    for number in range(FOLDS):
        yield fold == number, fold != number


# -------------------------------------------------------------------- stopping


def mean_above(kind: str, limit: float) -> Rule:
    """As `serve --stop-above`: at the first decision at which the episode's mean is above the limit."""

    def rule(episode: EpisodeResult) -> int | None:
        above = _running_means(values_of(episode, kind)) > limit
        return int(episode.uncertainty.steps[above.argmax()]) if above.any() else None

    return rule


def later_than(step: int) -> Rule:
    """What needs no uncertainty: whatever is not done by then is stopped."""
    return lambda episode: step if episode.steps > step else None


def stops(episodes: Sequence[EpisodeResult], rule: Rule) -> Stops:
    """What a rule does to episodes."""
    stopped = [(episode, rule(episode)) for episode in episodes]
    failures = [step for episode, step in stopped if not episode.success]
    successes = [step for episode, step in stopped if episode.success]
    steps = tuple(step for step in failures if step is not None)
    return Stops(
        len(failures), len(steps), len(successes), sum(step is not None for step in successes), steps
    )


def rules_above(episodes: Sequence[EpisodeResult], kind: str) -> dict[float, Rule]:
    """Limit -> its rule, for every limit that makes a difference, falling."""
    highest = {float(_running_means(values_of(episode, kind)).max()) for episode in episodes}
    return {limit: mean_above(kind, limit) for limit in sorted({np.inf, *highest, 0.0}, reverse=True)}


def rules_later(episodes: Sequence[EpisodeResult], every: int = 4) -> dict[float, Rule]:
    """Step -> its rule, from never to at once."""
    longest = max(episode.steps for episode in episodes)
    return {float(step): later_than(step) for step in range(longest, -1, -every)}


def held_out_stops(episodes: Sequence[EpisodeResult], rules: Sequence[Rule], share: float) -> Stops:
    """What the rules do that are chosen in other start states, to lose at most this share of successes there."""
    found = []
    for held_out, learned in folds(episodes):
        rule = chosen(_those(episodes, learned), rules, share)
        found.append(stops(_those(episodes, held_out), rule))
    return Stops(
        sum(one.failures for one in found),
        sum(one.stopped for one in found),
        sum(one.successes for one in found),
        sum(one.lost for one in found),
        tuple(step for one in found for step in one.steps),
    )


def chosen(episodes: Sequence[EpisodeResult], rules: Sequence[Rule], share: float) -> Rule:
    """The one that stops the most failures, the earliest, of those that lose no more successes than they may."""
    tried = [(rule, stops(episodes, rule)) for rule in rules]
    allowed = [(rule, found) for rule, found in tried if found.lost <= share * found.successes]
    return max(allowed, key=lambda each: (each[1].stopped, -sum(each[1].steps)))[0]


def _those(episodes: Sequence[EpisodeResult], mask: np.ndarray) -> list[EpisodeResult]:
    return [episode for episode, one in zip(episodes, mask, strict=True) if one]


def _running_means(values: np.ndarray) -> np.ndarray:
    return np.cumsum(values) / np.arange(1, len(values) + 1)
