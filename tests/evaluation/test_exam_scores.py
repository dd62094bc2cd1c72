import re
from dataclasses import replace

import pytest
from fakes import conventions
from some_results import some_results

from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.registry import benchmark_for, episodes_for
from spatialvla.evaluation.benchmarks.spatial_exam import SpatialExamBenchmark
from spatialvla.evaluation.report.episodes_page import write_report
from spatialvla.evaluation.report.exam_table import exam_table
from spatialvla.evaluation.report.markdown import markdown_table, to_markdown
from spatialvla.evaluation.report.summary import summarize
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.exam_scores import exam_scores
from spatialvla.evaluation.results.outcomes import EpisodeResult, Tally
from spatialvla.simulation.libero.exam.questions import QUESTIONS, SKILLS

LIMIT = conventions().time_limit
OUTCOMES = {
    "+": (True, 9, True),  # the right bowl, placed
    "x": (False, 9, False),  # the wrong bowl, placed
    "r": (False, LIMIT, True),  # the right bowl, dropped
    "w": (False, LIMIT, False),  # the wrong bowl, dropped
    "-": (False, LIMIT, None),  # nothing taken
    "=": (True, 9, None),  # pushed there, and the benchmark did not see it taken
}


def exam(tasks: dict[int, str]) -> Results:
    """Task number -> a letter an episode."""
    episodes = tuple(
        EpisodeResult(task, state, success, steps, 1.0, chose=chose)
        for task, letters in tasks.items()
        for state, letter in enumerate(letters)
        for success, steps, chose in [OUTCOMES[letter]]
    )
    whole = some_results("+", suite="spatial_exam", episodes_per_task=max(map(len, tasks.values())))
    return replace(whole, tasks={task: QUESTIONS[task].label for task in tasks}, episodes=episodes)


def test_a_pair_counts_when_both_halves_are_right():
    (left, right) = SKILLS["left and right"][0].numbers
    (score,) = exam_scores(exam({left: "++x-w", right: "+r+x="}))
    total = score.total
    assert score.skill == "left and right"
    assert total.success == Tally(5, 10)
    assert total.both == Tally(1, 5)
    assert total.chose == Tally(5, 8)
    # Placed: three of the first half's five, four of the second's; in both halves of two pairs.
    assert (total.placed, total.both_placed) == (7, 2)
    assert total.success_by_chance == pytest.approx(0.35)
    assert total.both_by_chance == pytest.approx(0.1)


def test_skills_are_the_sum_of_their_pairs_and_half_pairs_do_not_count():
    (low, high), (lower, higher) = (pair.numbers for pair in SKILLS["height"])
    (skill,) = exam_scores(exam({low: "++", high: "+x", lower: "--", higher: "+"}))
    assert [score.both for _, score in skill.pairs] == [Tally(1, 2), Tally(0, 1)]
    assert skill.total.both == Tally(1, 3)
    assert skill.total.success == Tally(4, 6)
    assert not exam_scores(exam({low: "++"}))


def test_a_question_counts_in_each_skill_that_asks_it():
    first, second = (pair.numbers for pair in SKILLS["another instruction"])
    assert [pair.numbers for pair in SKILLS["swapped places"][:2]] == list(zip(first, second, strict=True))
    scores = exam_scores(exam({first[0]: "+", first[1]: "x", second[0]: "x", second[1]: "+"}))
    # It takes the same bowl whatever is said: never both halves of a picture.
    assert {score.skill: score.total.both for score in scores} == {
        "another instruction": Tally(0, 2),
        "swapped places": Tally(0, 2),
    }


def test_the_table_has_each_score_beside_chance():
    left, right = SKILLS["left and right"][0].numbers
    results = exam({left: "++", right: "+x"})
    table = markdown_table(exam_table(results))
    assert table.splitlines()[2] == (
        "| **left and right** | 75.0 % (30.1–95.4; 3/4) | 50.0 % | 75.0 % (30.1–95.4; 3/4) | 50.0 % "
        "| 50.0 % (9.5–90.5; 1/2) | 25.0 % |"
    )
    assert table in to_markdown(summarize([results]))
    assert "spatial exam" not in to_markdown(summarize([some_results("+")]))


def test_what_was_taken_is_kept_in_the_file_and_left_out_where_nothing_was():
    results = exam({4: "+x-", 5: "+++"})
    entries = results.to_json()["episodes"]
    assert [entry.get("chose", "absent") for entry in entries[:3]] == [True, False, "absent"]
    assert Results.from_json(results.to_json()) == results


def test_the_exam_is_a_suite_of_any_seed():
    for suite in ("spatial_exam", "spatial_exam_7"):
        benchmark = benchmark_for(suite, 224)
        assert type(benchmark) is SpatialExamBenchmark
        rules = benchmark.conventions(suite)
        assert f"seed {7 if suite.endswith('7') else 0}," in rules.start_states
        assert (rules.time_limit, episodes_for(suite)) == (220, 10)
    with pytest.raises(InputError, match="no exam"):
        benchmark_for("spatial_exam_x", 224).conventions("spatial_exam_x")


def test_the_report_of_an_evaluation_shows_the_exam_by_skill_and_pair(tmp_path):
    (low, high), (lower, higher) = (pair.numbers for pair in SKILLS["height"])
    results = exam({low: "++", high: "+x", lower: "--", higher: "+-"})
    write_report(results, {}, None, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    shown = html.partition("<h2>nano in the spatial exam</h2>")[2].partition("<h2>Success by task</h2>")[0]
    labels = re.findall(r'<span class="label">([^<]*)</span>', shown)
    assert labels == ["height", *(pair.name for pair in SKILLS["height"])]
    assert "Right bowl: of the episodes in which a bowl was taken" in shown
    assert "1 of 4" in shown.partition("</tr>")[2].partition("</tr>")[0]
    usual = some_results("++")
    write_report(usual, {}, None, tmp_path / "usual.html")
    assert "exam" not in (tmp_path / "usual.html").read_text(encoding="utf-8")
