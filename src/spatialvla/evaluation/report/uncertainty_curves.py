"""How sure the policy was, drawn as SVG: a curve below each video, and successes beside failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.episode_uncertainty import EpisodeUncertainty
from spatialvla.evaluation.results.outcomes import EpisodeResult

_WIDTH, _LEFT = 300, 34
_LANE, _GAP, _PANEL = 26, 6, 110
_FEW = 3
"""Episodes below which no quartiles are drawn."""
_TITLES = {
    "translation": "Entropy of the translation, bits",
    "rotation": "Entropy of the rotation, bits",
    "gripper": "Entropy of the gripper, bits",
    "spread_mm": "Spread of the translation, mm",
}


@dataclass(frozen=True)
class Scale:
    """What the curves of one page share. steps: the longest time limit. bits, mm: the largest values."""

    steps: int
    control_hz: int
    bits: float
    mm: float

    @classmethod
    def of(cls, results: Results) -> Scale:
        """The scale on which all episodes of these results can be compared."""
        told = [episode.uncertainty for episode in results.episodes if episode.uncertainty]
        return cls(
            _longest(results),
            results.conventions.control_hz,
            max((max(each.bits, default=0) for each in told), default=0) or 1,
            max((max(each.spread_mm, default=0) for each in told), default=0) or 1,
        )


def episode_curve(episode: EpisodeResult, scale: Scale) -> str:
    """Spread and entropy over an episode's steps, one lane each; empty where it does not tell them.

    The line `.now` is moved along with the episode's video.
    """
    told = episode.uncertainty
    if told is None:
        return ""
    lanes = [("mm", told.spread_mm, scale.mm), ("bits", told.bits, scale.bits)]
    drawn, top = [], 2
    for unit, values, most in lanes:
        if values:
            points = _points(told.steps, values, scale.steps, most, top, _LANE)
            drawn.append(
                _axis(f"{most:.3g}", unit, top, _LANE) + f'<polyline class="{unit}" points="{points}"/>'
            )
            top += _LANE + _GAP
    step = (_WIDTH - _LEFT) / scale.steps
    now = f'<line class="now" x1="{_LEFT}" x2="{_LEFT}" y1="0" y2="{top - _GAP + 2}"/>'
    span = f'data-left="{_LEFT}" data-end="{_LEFT + step * episode.steps:.1f}" '
    span += f'data-per-second="{step * scale.control_hz:.3f}"'
    words = "Uncertainty by step: spread of the translation and entropy"
    return (
        f'<svg class="curve" viewBox="0 0 {_WIDTH} {top}" role="img" aria-label="{words}" {span}>'
        f"{''.join(drawn)}{now}</svg>"
    )


def uncertainty_section(results: Results) -> str:
    """Successes beside failures, in a panel for each kind of number; empty where no episode tells."""
    told = [episode for episode in results.episodes if episode.uncertainty]
    if not told:
        return ""
    successes = sum(episode.success for episode in told)
    if max(successes, len(told) - successes) < _FEW:
        return f"""<h2>How sure the policy was</h2>
<p class="muted">Curves of all episodes need {_FEW} successes or {_FEW} failures; each episode's own are below its
video.</p>"""
    steps = _longest(results)
    panels = "".join(
        _panel(told, part, steps) for part in _TITLES if any(_values(each, part) for each in told)
    )
    without = len(results.episodes) - len(told)
    missing = f" Episodes played without --uncertainty, which are not in it: {without}." if without else ""
    return f"""<h2>How sure the policy was</h2>
<p class="muted">Median and quartiles by step, of the episodes that were still under way:
<b class="good">successes</b> and <b class="bad">failures</b>. Higher is less sure.{missing}</p>
<div class="panels">{panels}</div>"""


def _panel(told: Sequence[EpisodeResult], part: str, steps: int) -> str:
    grid = sorted({step for episode in told for step in _sure(episode).steps})
    bands = {
        outcome: _band([each for each in told if each.success == (outcome == "good")], part, grid)
        for outcome in ("good", "bad")
    }
    most = max((float(band.max()) for _, band in bands.values() if band.size), default=0) or 1
    drawn = [_axis(f"{most:.3g}", "", 2, _PANEL)]
    for outcome, (at, band) in bands.items():
        if len(at):
            low, middle, high = (_points(at, line, steps, most, 2, _PANEL).split(" ") for line in band)
            drawn.append(f'<polygon class="{outcome}" points="{" ".join([*high, *reversed(low)])}"/>')
            drawn.append(f'<polyline class="{outcome}" points="{" ".join(middle)}"/>')
    foot = (
        f'<text x="{_LEFT}" y="{_PANEL + 14}">0</text>'
        f'<text x="{_WIDTH}" y="{_PANEL + 14}" text-anchor="end">{steps} steps</text>'
    )
    return (
        f'<figure><svg class="curve" viewBox="0 0 {_WIDTH} {_PANEL + 18}" role="img" aria-label="{_TITLES[part]}">'
        f"{''.join(drawn)}{foot}</svg><figcaption>{_TITLES[part]}</figcaption></figure>"
    )


def _band(episodes: Sequence[EpisodeResult], part: str, grid: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Steps at which enough episodes are under way, and (3, steps) quartiles of their latest values there."""
    at, rows = [], []
    for step in grid:
        now = [
            _values(episode, part)[np.searchsorted(_sure(episode).steps, step, "right") - 1]
            for episode in episodes
            if episode.steps > step and _values(episode, part)
        ]
        if len(now) >= _FEW:
            at.append(step)
            rows.append(np.quantile(now, (0.25, 0.5, 0.75)))
    return at, np.array(rows).T


def _longest(results: Results) -> int:
    return max(results.conventions.limit(task) for task in results.tasks)


def _sure(episode: EpisodeResult) -> EpisodeUncertainty:
    assert episode.uncertainty is not None
    return episode.uncertainty


def _values(episode: EpisodeResult, part: str) -> tuple[float, ...]:
    values: tuple[float, ...] = getattr(_sure(episode), part)
    return values


def _points(
    steps: Sequence[int], values: Sequence[float] | np.ndarray, limit: int, most: float, top: int, height: int
) -> str:
    return " ".join(
        f"{_LEFT + (_WIDTH - _LEFT) * step / limit:.1f},{top + height * (1 - value / most):.1f}"
        for step, value in zip(steps, values, strict=True)
    )


def _axis(most: str, unit: str, top: int, height: int) -> str:
    """The zero line, and what the top means."""
    base = top + height
    return (
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH}" y1="{base}" y2="{base}"/>'
        f'<text x="{_LEFT - 4}" y="{top + 7}" text-anchor="end">{most}</text>'
        f'<text x="{_LEFT - 4}" y="{base}" text-anchor="end">{unit or 0}</text>'
    )
