"""How sure a policy was, as an evaluation's page draws it and as its episodes say it."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from some_results import some_results

from spatialvla.evaluation.report.episodes_page import write_report
from spatialvla.evaluation.report.uncertainty_curves import Scale, episode_curve, uncertainty_section
from spatialvla.evaluation.results.episode_uncertainty import EpisodeUncertainty
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.types import Uncertainty


def told(level: float, decisions: int = 5, spread: bool = True) -> EpisodeUncertainty:
    steps = tuple(range(0, 4 * decisions, 4))
    same = (level,) * decisions
    return EpisodeUncertainty(steps, same, same, same, same if spread else ())


def episodes(spread: bool = True) -> tuple[EpisodeResult, ...]:
    """Three successes of 8 steps at 1 bit, three failures of 20 at 2, and one that says nothing."""
    good = [EpisodeResult(0, n, True, 8, 1.0, uncertainty=told(1.0, 2, spread)) for n in range(3)]
    bad = [EpisodeResult(0, n, False, 20, 1.0, uncertainty=told(2.0, 5, spread)) for n in range(3, 6)]
    return (*good, *bad, EpisodeResult(0, 6, False, 20, 1.0))


RESULTS = some_results("+++----", episodes=episodes())


def lines(svg: str, kind: str) -> list[list[tuple[float, float]]]:
    found = re.findall(f'<polyline class="{kind}" points="([^"]*)"', svg)
    return [[tuple(map(float, point.split(","))) for point in line.split(" ")] for line in found]


def test_an_episodes_curve_has_one_scale_with_the_others_and_ends_where_it_ended():
    scale = Scale.of(RESULTS)
    assert (scale.steps, scale.bits, scale.mm) == (20, 6, 2)
    short, long = (episode_curve(RESULTS.episodes[number], scale) for number in (0, 3))
    for svg, steps, height in ((short, 2, 0.5), (long, 5, 1.0)):
        (millimeters,), (bits,) = lines(svg, "mm"), lines(svg, "bits")
        assert [x for x, _ in millimeters] == pytest.approx([34 + 266 * 4 * n / 20 for n in range(steps)])
        assert {y for _, y in millimeters} == {2 + 26 * (1 - height)}
        assert len(bits) == steps
    assert 'data-end="300.0"' in long
    assert 'data-end="140.4"' in short  # 34 + 266 * 8 / 20
    assert episode_curve(RESULTS.episodes[6], scale) == ""


def test_successes_and_failures_are_drawn_as_long_as_three_are_under_way():
    section = uncertainty_section(RESULTS)
    assert section.count("<figure>") == 4
    assert "without --uncertainty, which are not in it: 1." in section
    good, bad = lines(section, "good"), lines(section, "bad")
    assert len(good) == len(bad) == 4
    assert all(len(line) == 2 for line in good)
    assert all(len(line) == 5 for line in bad)
    assert {y for line in bad for _, y in line} == {2.0}, "the top is the largest"
    assert {y for line in good for _, y in line} == {2 + 110 / 2}
    few = some_results("+++----", episodes=episodes()[1:])
    assert not lines(uncertainty_section(few), "good"), "two are no quartiles"


def test_where_units_are_unknown_there_is_no_spread():
    results = some_results("+++----", episodes=episodes(spread=False))
    assert uncertainty_section(results).count("<figure>") == 3
    assert not lines(episode_curve(results.episodes[0], Scale.of(results)), "mm")


def test_the_page_has_the_curves_only_where_episodes_tell(tmp_path):
    for name, results in (("told", RESULTS), ("plain", some_results("+-"))):
        write_report(results, {}, SimpleNamespace(), tmp_path / f"{name}.html")
    html = (tmp_path / "told.html").read_text(encoding="utf-8")
    assert html.count('class="now"') == 6
    assert html.count("How sure the policy was") == 1
    assert "What the curves mean" in html
    plain = (tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "How sure the policy was" not in plain
    assert "<svg" not in plain


def test_a_decision_is_the_mean_over_its_chunk():
    entropy = np.array([[1.0, 2.0, 0.0], [3.0, 2.0, -0.0]])
    made = EpisodeUncertainty.of([(0, Uncertainty(entropy, np.array([5.0, 10.0])))])
    assert made == EpisodeUncertainty((0,), (2.0,), (2.0,), (0.0,), (7.5,))
    assert made.bits == (4.0,)
    assert str(made.gripper[0]) == "0.0"
    unknown = EpisodeUncertainty.of([(0, Uncertainty(entropy, np.full(2, np.nan)))])
    assert unknown.spread_mm == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rotation": (1.0,)}, "2 decisions have 1 numbers of rotation"),
        ({"spread_mm": (1.0,)}, "2 decisions have 1 numbers of spread_mm"),
        ({"gripper": (0.1, -0.1)}, "gripper of a decision is -0.1"),
        ({"steps": (4, 4)}, "do not rise"),
        ({"steps": (-4, 4)}, "do not rise"),
    ],
)
def test_series_that_cannot_be_are_refused(changes, sentence):
    whole = {"steps": (0, 4), "translation": (1.0, 1.0), "rotation": (1.0, 1.0), "gripper": (1.0, 1.0)}
    with pytest.raises(ValueError, match=sentence):
        EpisodeUncertainty(**{**whole, **changes})


def test_where_too_few_ended_alike_no_empty_panels_are_drawn():
    few = some_results("++--", episodes=(*episodes()[:2], *episodes()[3:5]))
    section = uncertainty_section(few)
    assert "<figure>" not in section
    assert "need 3 successes or 3 failures" in section
