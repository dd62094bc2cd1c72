import json
from dataclasses import asdict, replace

import pytest
from fakes import conventions
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.errors import InputError
from spatialvla.evaluation.libero import time_limit
from spatialvla.evaluation.results import EpisodeResult, Results, hash_checkpoint, wilson_interval

RESULTS = Results(
    suite="fake",
    policy="nano",
    checkpoint="ab",
    depth="estimate",
    episodes_per_task=2,
    tasks={3: "pick up the bowl", 5: "open the drawer"},
    conventions=conventions(),
    versions={"torch": "2.13.0"},
    started="2025-01-01T00:00:00+00:00",
    seconds=12.5,
    episodes=(
        EpisodeResult(3, 0, True, 80, 4.0, "videos/a.mp4"),
        EpisodeResult(3, 1, True, 100, 4.5, None),
        EpisodeResult(5, 0, False, 220, 9.0, None),
    ),
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (60, 100, 0.5020, 0.6906), (10, 10, 0.7225, 1.0)],
)
def test_wilson_intervals_equal_the_tabulated_ones(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_interval_holds_the_rate_and_mirrors_with_it(successes, extra):
    trials = successes + extra
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low))


def test_json_round_trip_keeps_everything(tmp_path):
    path = tmp_path / "deep" / "results.json"
    RESULTS.save(path)
    assert Results.load(path) == RESULTS
    document = json.loads(path.read_text())
    assert document["total"] == {
        "successes": 2,
        "trials": 3,
        "rate": 2 / 3,
        "interval95": list(wilson_interval(2, 3)),
    }
    assert document["tasks"][1]["instruction"] == "open the drawer"
    assert document["conventions"]["gripper"] == asdict(conventions())["gripper"]
    assert document["complete"] is False
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_unreadable_results_are_one_clear_error(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(InputError, match="does not exist"):
        Results.load(path)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Results.load(path)
    path.write_text(json.dumps({"schema": "other"}))
    with pytest.raises(InputError, match="schema"):
        Results.load(path)
    document = RESULTS.to_json()
    del document["episodes"][0]["steps"]
    with pytest.raises(InputError, match="damaged"):
        Results.from_json(document)


def test_tables_show_rates_intervals_and_the_length_of_successes():
    lines = RESULTS.to_markdown().splitlines()
    assert lines[2] == "| pick up the bowl | 2/2 | 100% | 34% – 100% | 90 |"
    assert lines[3] == "| open the drawer | 0/1 | 0% | 0% – 79% | – |"
    assert lines[4].startswith("| all | 2/3 | 67% |")
    assert "| 0/0 | – | – | – |" in replace(RESULTS, episodes=()).to_markdown()
    assert RESULTS.to_table().row_count == 3


def test_a_checkpoint_hash_changes_with_contents_and_names(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "notes.txt").write_text("ignored")
    first = hash_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("changed")
    assert hash_checkpoint(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    second = hash_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert len({first, second, hash_checkpoint(tmp_path)}) == 3


def test_time_limits_follow_the_base_suite():
    suites = [
        "libero_spatial",
        "libero_spatial_with_mug",
        "libero_10",
        "libero_10_swap",
        "libero_90",
        "libero_mine",
    ]
    assert [time_limit(suite) for suite in suites] == [220, 220, 520, 520, 400, 520]
