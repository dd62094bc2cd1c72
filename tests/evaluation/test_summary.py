import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from some_results import shards, some_results

from spatialvla.evaluation.report.markdown import markdown_table, to_markdown
from spatialvla.evaluation.report.results_page import results_page
from spatialvla.evaluation.report.summary import summarize
from spatialvla.evaluation.report.tables import PublishedRate, success_table
from spatialvla.evaluation.results.comparison import compare
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.evaluation.results.published_rates import published_tables
from spatialvla.execution import Execution

OTHER = {"policy": "<micro>", "checkpoint": "f" * 64}


def test_published_figures_are_well_formed():
    tables = published_tables()
    assert tables[0].name == "LIBERO"
    for table in tables:
        assert len({column.title for column in table.columns}) == len(table.columns)
        for row in table.rows:
            assert row.source.url.startswith("https://")
            figures = [value for value in (*row.percent, row.average) if value is not None]
            assert figures
            assert all(0 <= value <= 100 for value in figures)
            assert row.spread is None or len(row.spread) == len(row.percent)


def test_printed_averages_are_the_means_where_the_table_says_nothing_else():
    """Catches slips in copying: LIBERO's and WidowX's averages are means of their success columns."""
    for table in published_tables():
        if "some of them are not the mean" in table.note:
            continue
        for row in table.rows:
            if None in row.percent:
                continue
            if row.average is not None and f"{row.method}'s {row.average} is not the mean" not in table.note:
                wins = [v for v, c in zip(row.percent, table.columns, strict=True) if c.measure == "success"]
                assert row.average == pytest.approx(sum(wins) / len(wins), abs=0.11), (table.name, row.method)


def test_paper_figures_of_spatialvla():
    """Tables I to III of arXiv 2501.15830 as its README prints them."""
    libero, _, widowx, matching, aggregation, _ = published_tables()
    known = {
        libero.name: ("SpatialVLA, fine-tuned", (88.2, 89.9, 78.6, 55.5)),
        widowx.name: ("SpatialVLA, zero-shot", (25.0, 20.8, 41.7, 20.8, 58.3, 25.0, 79.2, 70.8)),
        matching.name: ("SpatialVLA, zero-shot", (81.0, 69.6, 59.3)),
        aggregation.name: ("SpatialVLA, fine-tuned on Fractal", (88.0, 72.7, 41.8)),
    }
    for table in (libero, widowx, matching, aggregation):
        method, percent = known[table.name]
        (row,) = [row for row in table.rows if row.method == method]
        assert row.percent == percent


def test_moved_cameras_stand_beside_what_is_published_of_all_suites_together():
    (table,) = summarize([some_results("++ +-", "libero_plus_camera_goal")]).tables
    assert table.title == "LIBERO-plus, camera"
    own, *published = table.rows
    assert [cell and cell.trials for cell in own.cells] == [None, None, 4, None, None]
    cameraless = {row.label: row.cells[-1] for row in published}["OpenVLA-OFT without its wrist camera"]
    assert cameraless == PublishedRate(10.4)


def test_own_rates_stand_beside_the_published_ones():
    suites = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    evaluations = [some_results("++ +-", suite) for suite in suites]
    page = summarize(evaluations)
    (table,) = page.tables
    own, *published = table.rows
    assert own.cells[0] == evaluations[0].total
    assert own.cells[-1].successes == 12
    assert own.cells[-1].trials == 16
    assert own.source is None
    assert {row.source for row in published} == set(range(1, len(page.sources) + 1))
    assert published[0].cells[0] == PublishedRate(88.2, 0.5)


def test_an_average_needs_every_suite():
    (table,) = summarize([some_results("++ +-"), some_results("++", "libero_10")]).tables
    assert table.rows[0].cells[1:3] == (None, None)
    assert table.rows[0].cells[-1] is None


def test_a_table_without_averages_has_no_column_for_them():
    (table,) = summarize([some_results("++", "libero_spatial_swap")]).tables
    assert "Average" not in [column.title for column in table.columns]
    assert {len(row.cells) for row in table.rows} == {len(table.columns)}


def test_two_runs_of_a_suite_are_two_rows():
    (table,) = summarize([some_results("++"), some_results("+-"), some_results("--", "libero_10")]).tables
    own = [row for row in table.rows if row.source is None]
    assert [(row.cells[0].successes, row.cells[3] is not None) for row in own] == [(2, True), (1, False)]


def test_each_suites_own_statistics_are_one_use_of_a_policy():
    """As `evaluate` takes them; a suite played by another's statistics joins those that were played by them, too."""

    def rows(**played):
        evaluations = [
            some_results("+-", suite, settings=PolicySettings(dataset=dataset))
            for suite, dataset in played.items()
        ]
        (table,) = summarize(evaluations).tables
        return [[cell is not None for cell in row.cells] for row in table.rows if row.ours]

    suites = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    assert rows(**{suite: suite for suite in suites}) == [[True] * 5]
    assert rows(libero_spatial="libero_spatial", libero_object="libero_spatial") == [
        [True, True, False, False, False]
    ]
    assert rows(libero_spatial="libero_10", libero_object="libero_object") == [
        [True, False, False, False, False],
        [False, True, False, False, False],
    ]


def test_what_was_played_with_less_is_a_row_of_its_own():
    full, object_suite = some_results("++"), some_results("+-", "libero_object")
    told = replace(full.conventions, state="two fingers")
    blind = replace(object_suite, conventions=replace(told, camera="fake; wrist: hand", state=""))
    (table,) = summarize([replace(full, conventions=told), blind]).tables
    assert [row.detail for row in table.rows if row.ours] == [
        "0123456789ab · fake, the state",
        "0123456789ab · fake; wrist: hand, no state",
    ]


def test_what_whole_chunks_leave_aside_makes_no_row_of_its_own():
    """Files of before say of them that the model is told of the steps under way."""
    before = PolicySettings(Execution(commit=True))
    evaluations = [some_results("++", settings=before), some_results("+-", "libero_10")]
    (table,) = summarize(evaluations).tables
    assert len([row for row in table.rows if row.source is None]) == 1


def test_partial_success_has_columns_of_its_own():
    tasks = {0: "put the spoon on the towel", 1: "put carrot on plate"}
    (table,) = summarize([some_results("+~- ~--", "simpler_widowx", tasks=tasks)]).tables
    titles = [column.title for column in table.columns]
    cells = dict(zip(titles, table.rows[0].cells, strict=True))
    assert (cells["Spoon on towel: grasped"].successes, cells["Spoon on towel: success"].successes) == (2, 1)
    assert (cells["Carrot on plate: grasped"].successes, cells["Carrot on plate: success"].successes) == (
        1,
        0,
    )
    assert cells["Eggplant in basket: success"] is None


def test_suites_without_published_figures_are_shown_too():
    page = summarize([some_results("+-", "libero_90")])
    (table,) = page.tables
    assert table.rows[0].label == "nano on libero_90"
    assert page.sources == ()


def test_only_a_shards_own_tasks_are_listed():
    _, second, _ = shards(some_results("++ +- --"), 3)
    assert [row.label for row in success_table(second).rows] == ["open the drawer"]
    assert "pick up the bowl" not in markdown_table(success_table(second))


def test_small_print_tells_how_a_policy_was_used():
    def detail(**changes):
        return summarize([some_results("+", **changes)]).tables[0].rows[0].detail

    assert detail() == "0123456789ab"
    assert detail(settings=None) == "0123456789ab · settings not recorded"
    assert detail(depth="simulator", settings=PolicySettings(tolerance=1)) == (
        "0123456789ab · simulator's depth · whole chunks; tolerance 1"
    )
    assert detail(checkpoint=None, settings=None, harness="vla-eval 0.8.0") == "vla-eval 0.8.0"


def test_what_is_missing_is_said():
    page = summarize([some_results("+- +-", episodes_per_task=3)])
    assert "2 of 6 episodes missing" in page.tables[0].rows[0].detail


VOID = {"meta", "br", "img", "link"}


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.anchors, self.targets, self.rows = [], [], set(), [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [value for name, value in attrs.items() if name in ("src", "srcset")]
        self.anchors |= {attrs["id"]} if "id" in attrs else set()
        if attrs.get("href", "").startswith("#"):
            self.targets.append(attrs["href"][1:])
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        if tag == "table":
            self.rows.append(None)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing():
    first, second = (
        some_results("+-~ ++-", "simpler_widowx"),
        some_results("++- ++-", "simpler_widowx", **OTHER),
    )
    page = summarize([first, second, some_results("+", "libero_90")], compare(first, second))
    checker = Checker()
    html = results_page(page)
    checker.feed(html)
    assert checker.open == []
    assert checker.loaded == []
    assert not re.search(r"url\(|@import", html)
    assert set(checker.targets) <= checker.anchors
    assert "<micro>" not in html
    assert "&lt;micro&gt;" in html
    assert html.count("<table") == len(re.findall(r'<div class="scroll"[^>]*><table', html))
    assert "were the two equally good" in html  # what p means
    width = None
    for cells in checker.rows:  # every row of a table has as many cells as its head
        if cells is None:
            width = None
        else:
            width = width or cells
            assert cells == width


def test_markdown_tables_are_regular():
    first, second = some_results("+- ++"), some_results("++ --", **OTHER)
    text = to_markdown(summarize([first, second], compare(first, second)))
    width = None
    for line in text.splitlines():
        width = (width or line.count("|")) if line.startswith("|") else None
        assert width is None or line.count("|") == width
    assert "| **nano** | 75.0 % (30.1–95.4; 3/4) |" in text
    assert "| SpatialVLA, fine-tuned [1] | 88.2 % ± 0.5 |" in text
    assert "- p, exact McNemar test: 1" in text
    assert "## nano on libero_spatial" in text
    assert "## nano on libero_spatial" not in to_markdown(summarize([first]), evaluations=False)
