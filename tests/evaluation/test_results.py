import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from fakes import conventions
from rich.console import Console

from mutations import mutations
from spatialvla.actions.units import LIBERO
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.simpler import SimplerBenchmark
from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import success_table
from spatialvla.evaluation.report.terminal import print_success
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.episode_uncertainty import EpisodeUncertainty
from spatialvla.evaluation.results.identity import differences
from spatialvla.evaluation.results.intervals import wilson_interval
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.plan import Shard
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.evaluation.results.provenance import hash_checkpoint, settings_of
from spatialvla.execution import Execution
from spatialvla.model.fast.options import Optimization
from spatialvla.policy import Policy
from spatialvla.simulation.libero.tasks import time_limit

GOLDENS = Path(__file__).parents[1] / "goldens" / "evaluation"

SURE = EpisodeUncertainty((0, 4), (1.5, 2.0), (0.25, 0.5), (0.0, 1.0), (3.5, 40.0))

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
        EpisodeResult(3, 1, True, 100, 4.5, None, uncertainty=SURE),
        EpisodeResult(5, 0, False, 220, 9.0, None, partial=True),
    ),
    settings=PolicySettings(Execution("receding", steps=2), dataset="fake", tolerance=1),
    shard=Shard(1, 1),
)


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
    with pytest.raises(InputError, match="not valid JSON"):
        Results.load(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="no JSON object"):
        Results.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not valid JSON"):
        Results.load(path)
    path.write_text(json.dumps({"schema": "other"}))
    with pytest.raises(InputError, match="schema"):
        Results.load(path)
    document = RESULTS.to_json() | {"depth": "guessed"}
    with pytest.raises(InputError, match="Damaged evaluation result: depth is one of estimate, simulator"):
        Results.from_json(document)
    document = RESULTS.to_json()
    del document["episodes"][0]["steps"]
    with pytest.raises(InputError, match="Damaged evaluation result"):
        Results.from_json(document)


def test_files_of_the_schema_before_are_read(tmp_path):
    """What the first release wrote: no settings, no shard, no partial success, fewer conventions."""
    document = RESULTS.to_json() | {"schema": "spatialvla.evaluation/1"}
    for name in ("settings", "shard", "harness"):
        del document[name]
    for name in ("partial", "rotation", "crop", "seeds"):
        del document["conventions"][name]
    for episode in document["episodes"]:
        del episode["partial"]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    read = Results.load(path)
    assert (read.settings, read.shard, read.harness) == (None, None, "spatialvla")
    assert read.total == RESULTS.total
    assert [episode.partial for episode in read.episodes] == [None, None, None]
    assert read.conventions == RESULTS.conventions
    read.save(path)
    assert Results.load(path) == read


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (None, "float32"),
        (Optimization(), "float32"),
        (Optimization(weights="int8"), "float32, int8"),
        (Optimization(weights="int8", activations="int8"), "float32, w8a8"),
    ],
)
def test_what_was_made_8_bits_of_is_another_evaluation(options, dtype):
    policy = Policy.from_pretrained("nano", optimization=options, tolerance=1)
    assert settings_of(policy) == PolicySettings(
        dataset="libero_spatial", speculate=True, tolerance=1, dtype=dtype
    )


def test_settings_are_said_in_a_few_words():
    assert str(PolicySettings()) == "whole chunks"
    assert str(PolicySettings(Execution("ensemble"), dataset="x", speculate=True)) == "ensemble"
    assert str(RESULTS.settings) == "receding, 2 steps; tolerance 1"
    late = PolicySettings(Execution("async", latency_steps=2), dtype="bfloat16")
    assert str(late) == "async, 2 steps late; dtype bfloat16"
    told = replace(late, execution=replace(late.execution, commit=True), dtype="float32")
    assert str(told) == "async, 2 steps late, told of the steps under way"


def test_tables_show_rates_intervals_and_the_length_of_successes():
    lines = markdown_table(success_table(RESULTS)).splitlines()
    assert lines[0] == "| Task | Successes | Rate | 95 % interval | Steps | Partial |"
    assert lines[2] == "| pick up the bowl | 2/2 | 100 % | 34 – 100 % | 90 | – |"
    assert lines[3] == "| open the drawer | 0/1 | 0 % | 0 – 79 % | – | 1/1 |"
    assert lines[4] == "| All tasks | 2/3 | 67 % | 21 – 94 % | 90 | 1/1 |"
    none = success_table(replace(RESULTS, episodes=()))
    assert "| 0/0 | – | – | – |" in markdown_table(none)


def test_a_terminal_shows_the_same_cells(capsys):
    print_success(RESULTS, Console(file=sys.stdout, force_terminal=True, width=100))
    drawn = capsys.readouterr().out
    table = success_table(RESULTS)
    for cell in (table.title, *(row.label for row in table.rows), "2/2", "34 – 100 %", "21 – 94 %"):
        assert cell in drawn
    print_success(RESULTS, Console(file=sys.stdout, force_terminal=False))
    assert capsys.readouterr().out == markdown_table(table) + "\n"


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


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [("libero", LiberoBenchmark()), ("simpler", SimplerBenchmark(LIBERO))],
)
def test_files_of_the_first_release_still_fit(name, benchmark):
    """They are read as they were, and an evaluation by today's rules may go on from them."""
    path = GOLDENS / f"results_{name}.json"
    found = Results.load(path)
    assert json.loads(json.dumps(found.to_json())) == json.loads(path.read_text())
    today = replace(found, conventions=benchmark.conventions(found.suite))
    assert differences(found, today) == []


def test_telling_a_model_of_the_steps_under_way_is_compared_where_some_are():
    """Files of before say of whole chunks, too, that the model was told, and such an evaluation goes on."""

    def told(mode, commit):
        return replace(RESULTS, settings=PolicySettings(Execution(mode, commit=commit)))

    assert differences(told("chunk", True), told("chunk", False)) == []
    assert differences(told("async", True), told("async", False)) == ["settings commit: True, False"]


def test_what_is_read_is_checked_against_its_schema(tmp_path):
    """Each value replaced by others: a sentence, or results that can be counted."""
    document = json.loads(json.dumps(RESULTS.to_json()))
    refused = 0
    for what, changed in mutations(document, skip=("schema",)):
        try:
            results = Results.from_json(changed)
        except InputError:
            refused += 1
            continue
        assert 0 <= results.total.successes <= len(results.planned), what
        assert all(type(episode.success) is bool for episode in results.episodes), what
        results.to_json()
    assert refused > 500


def test_an_episode_counts_once(tmp_path):
    document = RESULTS.to_json()
    document["episodes"] += [document["episodes"][0]] * 30
    with pytest.raises(InputError, match="Task 3 from start state 0 is there twice; an episode counts once"):
        Results.from_json(document)
    document["episodes"] = [document["episodes"][0] | {"start_state": 2}]
    with pytest.raises(InputError, match="Task 3 from start state 2 is none of the 4 episodes"):
        Results.from_json(document)


def test_no_evaluation_took_less_than_no_time():
    with pytest.raises(InputError, match="it took -5 seconds"):
        Results.from_json(RESULTS.to_json() | {"seconds": -5})


@pytest.mark.parametrize("success", [2, None, 1, "true"])
def test_success_is_true_or_false(success):
    document = RESULTS.to_json()
    document["episodes"][1]["success"] = success
    with pytest.raises(InputError, match=r"episodes\[1\]\.success is true or false, not"):
        Results.from_json(document)


def test_flips_in_results_are_seen_or_change_nothing(tmp_path):
    path = tmp_path / "results.json"
    RESULTS.save(path)
    whole, sentences = path.read_bytes(), []
    for position in range(0, len(whole), 7):
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :]
        )
        try:
            assert Results.load(path) == RESULTS
        except InputError as error:
            sentences.append(str(error))
    assert len(sentences) > len(whole) / 7 / 2
    assert all(str(path) in sentence for sentence in sentences)
