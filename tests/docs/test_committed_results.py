"""The success rates that the pages and model cards say are those of the results in benchmarks/results."""

import itertools
import re
import runpy
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from pages import ROOT

from spatialvla.common.json_files import read_json
from spatialvla.evaluation.report.tables import Interval, cell_text, count, percent
from spatialvla.evaluation.results.comparison import compare, p_text, points
from spatialvla.evaluation.results.document import SCHEMA, Results
from spatialvla.evaluation.results.exam_scores import exam_scores
from spatialvla.evaluation.results.provenance import hash_checkpoint

MEASUREMENTS = "docs/measurements"
ASSETS = ROOT / "src" / "spatialvla" / "assets"
RESULTS = {
    path.stem: Results.load(path)
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    if read_json(path).get("schema") == SCHEMA
}
SHIPPED = ("nano", "nano-wrist")
LIBERO = {"libero_spatial": "Spatial", "libero_object": "Object", "libero_goal": "Goal", "libero_10": "Long"}

SUITES = [
    (page, f"{suite}_{policy}", words.replace("SUITE", name))
    for page, policy, words in (
        ("README.md", "nano", "| LIBERO-SUITE | {short} |"),
        ("README.md", "nano-wrist", "| LIBERO-SUITE | * | {short} |"),
        ("nano", "nano", "| LIBERO-SUITE | {row} |"),
        ("nano-wrist", "nano-wrist", "| LIBERO-SUITE | {row} |"),
        ("results.md", "nano", "| SUITE | {short} |"),
        ("results.md", "nano-wrist", "| SUITE | * | {short} |"),
    )
    for suite, name in LIBERO.items()
]
"""Where a shipped policy's results of LIBERO's suites must stand: as ROWS."""

ROWS = [
    *SUITES,
    ("success.md", "libero_spatial_nano-1", "| `libero_spatial` | {cells} |"),
    ("nano", "libero_spatial_nano_bf16", "| the same in bfloat16, the default of many CPUs | {row} |"),
    ("success.md", "libero_spatial_nano_bf16", "it is {of} ({low} to {high} %)."),
    ("success.md", "libero_spatial_nano_w8a8", "it is {of} ({low} to {high} %)."),
    ("success.md", "libero_spatial_nano-int4", "it is {of} ({low} to {high} %)."),
    ("success.md", "libero_spatial_nano-1_bf16", "it is {of} ({low} to {high} %)."),
    *(
        ("success.md", f"{suite}_{policy}", f"| `{suite}` | {{cells}} |")
        for policy in ("nano-wrist-1", "nano-wrist-2", "nano-wrist-3")
        for suite in LIBERO
    ),
    ("success.md", "libero_goal_nano-wrist-1_receding", "it has {of} in Goal ({low} to {high} %)."),
    ("success.md", "libero_spatial_swap_nano", "it has {of} ({low} to {high} %), as nano-wrist-1"),
    ("results.md", "libero_spatial_swap_nano", "the same, [nano](success.md#nano) | {short} |"),
    ("success.md", "libero_spatial_swap_nano-wrist-1", "it has {of} ({low} to {high} %): what it learned"),
    (
        "results.md",
        "libero_spatial_swap_nano-wrist-1",
        "the same, [nano-wrist-1](success.md#nano-wrist-1) | {short} |",
    ),
    ("success.md", "libero_object_nano-1", "| `libero_object` | {cells} |"),
    ("success.md", "libero_plus_camera_spatial_nano-1", "one episode each: {of} ({low} to {high} %)."),
    ("success.md", "libero_plus_robot_spatial_nano-1", "| `libero_plus_robot_spatial` | {cells} |"),
    ("success.md", "libero_plus_language_spatial_nano-1", "| `libero_plus_language_spatial` | {cells} |"),
    ("success.md", "libero_plus_noise_spatial_nano-1", "| `libero_plus_noise_spatial` | {cells} |"),
    ("results.md", "spatial_exam_nano-1", "the spatial exam](spatial_exam.md#nano-1) | {short} |"),
    (
        "results.md",
        "simpler_widowx_nano-widowx",
        "[nano fine-tuned](success.md#nano-fine-tuned-to-them) | {short} |",
    ),
    ("results.md", "spatial_exam_nano", "the same, [nano](spatial_exam.md#nano) | {short} |"),
    ("spatial_exam.md", "spatial_exam_nano", "{of} episodes ({interval})"),
    ("spatial_exam.md", "spatial_exam_nano-1", "{of} episodes ({interval})"),
    ("spatial_exam.md", "spatial_exam_expert", "{of} episodes ("),
    ("spatial_exam.md", "spatial_exam_expert", "It takes {steps} steps on average"),
    *(
        ("ego3d.md", f"{suite}_{policy}", f"| {words} | {{counted}} |")
        for suite, policy, words in (
            (
                "libero_plus_camera_spatial",
                "nano-wrist-3",
                "nano-wrist-3, from which both start, 24 of the 376, evenly taken",
            ),
            ("libero_plus_camera_spatial", "ego3d", "trained on, with Ego3D"),
            ("libero_plus_camera_spatial", "no-ego3d", "trained on, without"),
            ("spatial_exam", "nano-wrist-3", "nano-wrist-3"),
            ("spatial_exam", "ego3d", "practiced, with Ego3D"),
            ("spatial_exam", "no-ego3d", "practiced, without"),
        )
    ),
    (
        "results.md",
        "libero_plus_camera_spatial_nano-wrist",
        "[nano-wrist](success.md#nano-wrist), estimated depth | {short} |",
    ),
    (
        "results.md",
        "libero_plus_camera_spatial_nano-wrist-3",
        "[nano-wrist-3](ego3d.md#moved-cameras), shipped before | {short} |",
    ),
    ("success.md", "libero_plus_camera_spatial_nano-wrist", "| `libero_plus_camera_spatial` | {cells} |"),
    ("results.md", "libero_plus_camera_spatial_ego3d", "not shipped, estimated depth | {short} |"),
    ("results.md", "spatial_exam_nano-wrist-3", "[nano-wrist-3](ego3d.md#the-spatial-exam) | {short} |"),
    ("results.md", "spatial_exam_nano-wrist", "[nano-wrist](spatial_exam.md#after-practice) | {short} |"),
    ("spatial_exam.md", "spatial_exam_nano-wrist", "has {of} ({low} to {high} %):"),
    ("success.md", "spatial_exam_nano-wrist", "in other layouts, and has {of} ({low} to {high} %):"),
    ("nano-wrist", "spatial_exam_nano-wrist", "It has {of} in the spatial exam ({interval}),"),
    ("results.md", "spatial_exam_ego3d", "with other layouts, not shipped | {short} |"),
    ("uncertainty.md", "libero_spatial_nano-1", "{successes} succeeded, after {steps} steps on average"),
]
"""Where a rate stands beside those of the generated tables: page, results, and the words; * is anything in a cell."""

LOST_AND_WON = (
    "{first} were lost and {second} won (McNemar's exact p {p}): a difference of {difference} points, which may "
    "be anything from {low} to {high}."
)

OF_SUCCESS = [
    (
        "libero_goal_nano-wrist-1",
        "libero_goal_nano-wrist-1_receding",
        LOST_AND_WON.replace("{first} were", "In pairs {first} were"),
    ),
    ("libero_spatial_nano", "libero_spatial_nano_bf16", LOST_AND_WON),
    ("libero_spatial_nano", "libero_spatial_nano_w8a8", LOST_AND_WON),
    ("libero_spatial_nano", "libero_spatial_nano-int4", LOST_AND_WON),
    ("libero_spatial_nano-1", "libero_spatial_nano-1_bf16", LOST_AND_WON),
    (
        "libero_spatial_nano-1",
        "libero_spatial_nano",
        "nano lost {first} of those that nano-1 solved and won {second} others (McNemar's exact p {p})",
    ),
    (
        "libero_spatial_nano",
        "libero_spatial_nano-wrist-1",
        "nano solved {first} that it did not, and it solved {second} that nano did not (McNemar's exact p {p})",
    ),
    (
        "libero_spatial_nano",
        "libero_spatial_nano-wrist",
        "nano solved {first} that nano-wrist did not, and it solved {second} that nano did not (McNemar's exact p {p})",
    ),
    (
        "spatial_exam_nano-wrist-3",
        "spatial_exam_nano-wrist",
        "{first} of the exam that nano-wrist-3 solved were lost and {second} won (McNemar's exact p {p})",
    ),
    *(
        (
            f"{suite}_{before}",
            f"{suite}_{after}",
            f"{{first}} of {name} that {before} solved and won {{second}} others (McNemar's exact p {{p}})",
        )
        for before, after in itertools.pairwise(
            ("nano-wrist-1", "nano-wrist-2", "nano-wrist-3", "nano-wrist")
        )
        for suite, name in LIBERO.items()
    ),
]
"""What docs/measurements/success.md says of two policies on the same start states."""

PAIRS = [
    *(("success.md", *pair) for pair in OF_SUCCESS),
    *(
        (
            "ego3d.md",
            f"{suite}_no-ego3d",
            f"{suite}_ego3d",
            LOST_AND_WON.replace("{first} were", "With Ego3D {first} were"),
        )
        for suite in ("libero_plus_camera_spatial", "spatial_exam")
    ),
]
"""The same with the page that says it."""


def path_of(page: str) -> Path:
    """Of the README, a page of the measurements, or a shipped policy's card."""
    if page in SHIPPED:
        return ASSETS / page / "README.md"
    return ROOT / page if page == "README.md" else ROOT / MEASUREMENTS / page


def told(results: Results) -> dict[str, str]:
    """The ways in which pages write a rate."""
    total, steps = results.total, results.mean_steps()
    of, rate, interval = f"{total.successes} of {total.trials}", percent(total), cell_text(Interval(total))
    low, high = interval.removesuffix(" %").split(" – ")
    return {
        "of": of,
        "row": f"{of} | {rate} | {interval}",
        "cells": f"{count(total)} | {rate} | {interval}",
        "short": f"{count(total)} ({interval})",
        "counted": f"{count(total)} | {interval}",
        "interval": interval,
        "low": low,
        "high": high,
        "successes": str(total.successes),
        "steps": "–" if steps is None else f"{steps:.0f}",
    }


def holds(text: str, words: str) -> bool:
    """Whether a text has these words, however its lines are wrapped."""
    pattern = re.escape(words).replace(r"\*", r"[^|\n]*").replace(r"\ ", r"\s+")
    return re.search(pattern, text) is not None


def test_the_tables_are_those_of_the_results():
    """Where this fails, run `python docs/extensions/success.py`."""
    tables = runpy.run_path(str(ROOT / "docs" / "extensions" / "success.py"))
    page = tables["page"]()
    assert tables["PAGE"].read_text() == page
    shown = {found["name"] for found in tables["TABLE"].finditer(page)}
    assert not {results for _, results, _ in SUITES} - shown, "these have no table; two lines ask for one"
    assert not set(RESULTS) - shown - {results for _, results, _ in ROWS}, "no page is held against these"


@pytest.mark.parametrize(("page", "results", "words"), ROWS)
def test_a_rate_beside_the_tables_is_that_of_the_results(page: str, results: str, words: str):
    expected = words.format(**told(RESULTS[results]))
    assert holds(path_of(page).read_text(), expected), f"{page} should say: {expected}"


@pytest.mark.parametrize(
    ("page", "policy"),
    [
        ("spatial_exam.md", "nano"),
        ("spatial_exam.md", "nano-1"),
        ("ego3d.md", "nano-wrist-3"),
        ("ego3d.md", "ego3d"),
        ("ego3d.md", "no-ego3d"),
    ],
)
def test_the_exams_tables_are_those_of_the_results(page: str, policy: str):
    for skill in exam_scores(RESULTS[f"spatial_exam_{policy}"]):
        score = skill.total
        success, both = (
            f"{count(tally)} ({cell_text(Interval(tally))}) | {100 * chance:.0f} %"
            for tally, chance in (
                (score.success, score.success_by_chance),
                (score.both, score.both_by_chance),
            )
        )
        taken = f"{score.chose.trials} of {score.success.trials} | {score.chose.successes}"
        expected = f"| {skill.skill} | {taken} | {success} | {both} |"
        assert expected in path_of(page).read_text(), f"{page} should say: {expected}"


@pytest.mark.parametrize(("page", "one", "other", "words"), PAIRS)
def test_what_is_said_of_pairs_is_what_they_show(page: str, one: str, other: str, words: str):
    pairs = compare(RESULTS[one], RESULTS[other]).total
    low, high = pairs.interval
    expected = words.format(
        first=pairs.first,
        second=pairs.second,
        p=f"= {p_text(pairs.p_value)}".replace("= <", "<"),
        difference=points(pairs.difference),
        low=points(low),
        high=points(high),
    )
    assert holds(path_of(page).read_text(), expected), f"{page} should say: {expected}"


@pytest.mark.parametrize("policy", SHIPPED)
def test_a_card_tells_the_hub_the_rates_of_the_results(policy: str):
    for entry in ModelCard.load(ASSETS / policy / "README.md").data.eval_results:
        results = RESULTS[f"{entry.dataset_type}_{policy}"]
        words = told(results)
        assert entry.metric_value == results.total.rate
        assert (
            entry.metric_name == f"Success rate ({words['of']} episodes, 95 % interval {words['interval']})"
        )


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_of_the_weights_that_they_name(name: str):
    """A name that is not a shipped policy's stands for weights that are not shipped (any more)."""
    shipped = {policy: hash_checkpoint(ASSETS / policy) for policy in SHIPPED}
    policy, digest = RESULTS[name].policy, RESULTS[name].checkpoint
    if policy in shipped:
        assert digest == shipped[policy], f"{name} is of {digest}; play it again, or rename the policy"
    else:
        assert digest not in shipped.values(), f"{name} is of shipped weights"


@pytest.mark.parametrize("name", RESULTS)
def test_a_committed_result_is_whole_and_names_no_folders(name: str):
    results = RESULTS[name]
    assert results.complete
    assert name.startswith(results.suite)
    assert results.policy.split()[-1] in name.split("_")
    assert results == results.shareable(), "run `spatialvla results FILE --publish FILE`"
