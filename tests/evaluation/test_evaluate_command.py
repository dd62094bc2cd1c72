import base64
import json
import re
import shutil
from pathlib import Path

import pytest
from fakes import FakeBenchmark

from spatialvla.cli.evaluate import Evaluate
from spatialvla.cli.main import main
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.registry import BENCHMARKS
from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import success_table
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.latency import Latency
from spatialvla.evaluation.results.provenance import hash_checkpoint
from spatialvla.execution import Execution
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Runs the verb on the fake benchmark with the tiny checkpoint."""

    def run(benchmark: FakeBenchmark, *arguments: str) -> Path:
        monkeypatch.setitem(BENCHMARKS, "fake", lambda image_size, units, inputs: benchmark)
        common = ["--policy", str(CHECKPOINT), "--dataset", "bridge_orig/1.0.0", "--out", str(tmp_path)]
        main(
            ["evaluate", *common, "--suite", "fake", "--workers", "1", "--episodes-per-task", "1", *arguments]
        )
        return tmp_path

    return run


def test_evaluate_writes_table_results_videos_and_report(evaluate, capsys):
    out = evaluate(FakeBenchmark(), "--tasks", "0", "1", "--decisions", "1")
    results = Results.load(out / "results.json")
    assert results.complete
    assert (results.policy, results.checkpoint) == ("checkpoint", hash_checkpoint(CHECKPOINT))
    assert results.policy_path == str(CHECKPOINT)
    assert results.command.startswith(f"spatialvla evaluate --policy {CHECKPOINT} ")
    captured = capsys.readouterr()
    assert markdown_table(success_table(results)) in captured.out
    assert "fake: actions are executed in the mode chunk" in captured.err
    assert captured.err.count("open the drawer") == 1  # a line an episode where there is no terminal
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "pick up the bowl" in html
    videos = {base64.b64decode(video) for video in re.findall(r'"data:video/mp4;base64,([^"]*)"', html)}
    assert videos == {(out / episode.video).read_bytes() for episode in results.episodes}
    assert html.count('<div class="decision">') == 2


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ([], "chunk"),
        (["--suite", "libero_goal"], "chunk"),
        (["--suite", "simpler_widowx"], "temporal"),
        (["--suite=simpler_widowx", "--execution.mode", "chunk"], "chunk"),
    ],
)
def test_chunks_are_executed_in_the_suites_own_way(arguments, mode):
    verb = Evaluate.parse(["--policy", "nano", *arguments], "spatialvla evaluate")
    assert verb.execution == Execution(mode)
    assert verb.execution.temperature == -0.8


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--policy", str(CHECKPOINT), "--dataset", "bridge_orig/1.0.0"],
            "libero_spatial takes other actions than the policy's: meters a unit 1, not 0.05; radians a unit "
            "1, not 0.5; rotation euler, not rotation_vector; control rate in Hz 5, not 20; choose another --suite",
        ),
        (
            ["--policy", str(CHECKPOINT), "--dataset", "tiny_robot/0.1.0"],
            "on grippers from -0.0590457 to 0.05",
        ),
        (["--policy", "nano", "--suite", "simpler_widowx"], "control rate in Hz 20, not 5"),
    ],
)
def test_a_policy_whose_actions_the_suite_does_not_take_is_refused(
    options, sentence, tmp_path, monkeypatch, capsys
):
    # LIBERO need not be there.
    monkeypatch.setattr(LiberoBenchmark, "instructions", lambda self, suite: ("push",))
    monkeypatch.setattr(LiberoBenchmark, "most_episodes", lambda self, suite, task: 50)
    with pytest.raises(SystemExit):
        main(["evaluate", "--out", str(tmp_path / "out"), *options])
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_in_real_time_chunks_come_late_and_the_results_and_the_report_say_so(evaluate, capsys):
    out = evaluate(
        FakeBenchmark(states=1), "--tasks", "0", "--realtime", "--latency", "2", "--execution.mode", "async"
    )
    settings = Results.load(out / "results.json").settings
    assert settings.latency == Latency.always(2)
    assert settings.execution == Execution("async")
    assert "in the mode async (--execution.mode), each chunk 2 control steps late" in " ".join(
        capsys.readouterr().err.split()
    )
    told = "async; in real time, 2 control steps late"
    assert told in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--realtime"], "--realtime needs --latency"),
        (["--latency", "2"], "--latency says how late chunks come in --realtime"),
        (
            ["--realtime", "--latency", "2", "--execution.latency-steps", "2"],
            "leave out --execution.latency-steps",
        ),
    ],
)
def test_how_late_chunks_come_is_said_once(evaluate, options, sentence, capsys):
    with pytest.raises(SystemExit):
        evaluate(FakeBenchmark(), *options)
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--realtime", "--latency", "soon"], "whole number of control steps, or a .json or .csv file"),
        (["--realtime", "--latency", "51"], "A latency of 51 control steps is too long to play"),
        (["--realtime", "--latency", "absent.json"], "absent.json: It cannot be read"),
        (["--tasks", "3"], "there is no task 3"),
        (["--episodes-per-task", "0"], "at least 1 of episodes_per_task, got 0"),
        (["--episodes-per-task", "6"], "Task 0 of fake has 5 start states; play at most that many episodes"),
        (["--workers", "0"], "--workers must be at least 1, not 0"),
        (["--decisions", "-1"], "0 or more decisions of a task, not -1"),
        (["--shard", "3/2"], "Shards are 1/2 to 2/2, not 3/2"),
        (["--tolerance", "-1"], "tolerance must be 0 or more"),
        (["--depth-every", "0"], "depth_every at least 1"),
        (["--dataset", "absent"], "knows no dataset 'absent'"),
        (["--precision", "fp8", "--device", "cpu"], "fp8 weights need a GPU"),
        (["--without", "wrist"], "The policy takes no 'wrist' that it could play without"),
        (["--suite", "libero_spatial"], "libero_spatial takes other actions than the policy's"),
        (["--execution.alpha", "nan"], "alpha and temperature must be numbers"),
    ],
)
def test_what_cannot_be_played_is_refused_before_weights_are_loaded(
    evaluate, options, sentence, monkeypatch, capsys
):
    def load(*arguments, **options):
        raise AssertionError("the weights are loaded")

    # LIBERO need not be there.
    monkeypatch.setattr(LiberoBenchmark, "instructions", lambda self, suite: ("push",))
    monkeypatch.setattr(LiberoBenchmark, "most_episodes", lambda self, suite, task: 50)
    monkeypatch.setattr(SpatialVLA, "from_pretrained", load)
    with pytest.raises(SystemExit):
        evaluate(FakeBenchmark(), *options)
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_the_processor_is_read_once(evaluate, monkeypatch):
    read, from_pretrained = [], Processor.from_pretrained

    def counted(*arguments, **options):
        read.append(arguments)
        return from_pretrained(*arguments, **options)

    monkeypatch.setattr(Processor, "from_pretrained", counted)
    evaluate(FakeBenchmark(), "--tasks", "0", "--decisions", "0", "--no-videos")
    assert len(read) == 1


def test_unknown_units_are_played_only_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(BENCHMARKS, "fake", lambda image_size, units, inputs: FakeBenchmark())
    folder = shutil.copytree(CHECKPOINT, tmp_path / "unsaid")
    file = folder / "processor_config.json"
    unsaid = {"action_units": {"bridge_orig/1.0.0": None}}
    file.write_text(json.dumps(json.loads(file.read_text()) | unsaid))
    command = ["evaluate", "--policy", str(folder), "--dataset", "bridge_orig/1.0.0", "--suite", "fake"]
    command += ["--workers", "1", "--episodes-per-task", "1", "--tasks", "0", "--decisions", "0"]
    command += ["--no-videos", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        main(command)
    assert "Nobody says the meters, radians, rotation, frame" in capsys.readouterr().err
    main([*command, "--unknown-units"])
    assert Results.load(tmp_path / "results.json").complete


def test_a_suite_is_played_in_the_units_that_were_learned_of_it(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "fake", lambda image_size, units, inputs: FakeBenchmark())
    folder = shutil.copytree(CHECKPOINT, tmp_path / "two")
    file = folder / "processor_config.json"
    stored = json.loads(file.read_text())
    stored["statistics"]["fake"] = stored["statistics"]["bridge_orig/1.0.0"]
    stored["default_dataset"] = "bridge_orig/1.0.0"
    file.write_text(json.dumps(stored))
    command = ["evaluate", "--policy", str(folder), "--suite", "fake", "--workers", "1", "--tasks", "0"]
    command += ["--episodes-per-task", "1", "--decisions", "0", "--no-videos", "--unknown-units"]
    for options, dataset in (([], "fake"), (["--dataset", "bridge_orig/1.0.0"], "bridge_orig/1.0.0")):
        out = tmp_path / dataset
        main([*command, *options, "--out", str(out)])
        assert Results.load(out / "results.json").settings.dataset == dataset


def test_a_dead_worker_ends_the_command_with_its_task(evaluate):
    with pytest.raises(SystemExit, match=r"died .* task 0 \(pick up the bowl\)"):
        evaluate(FakeBenchmark(dies_in=0))
