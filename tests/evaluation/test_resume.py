import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeBenchmark, FakePolicy

from spatialvla.common.claims import claimed
from spatialvla.errors import InputError
from spatialvla.evaluation.play.decisions import DecisionKeeper
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.plan import EpisodeId, Shard, plan_episodes
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.execution import Execution

SCRIPT = Path(__file__).parent / "killed_evaluation.py"
WHOLE = plan_episodes(range(3), 3)


def start(out: Path, log: Path, moment: str = "never", number: int = 0) -> subprocess.Popen:
    path = os.pathsep.join([str(SCRIPT.parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(out), str(log), moment, str(number)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finished(out: Path) -> list[EpisodeId]:
    """What the file holds now; it is whole whenever it is there."""
    path = out / "results.json"
    return [episode.id for episode in Results.load(path).episodes] if path.exists() else []


def starts(log: Path) -> list[EpisodeId]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [EpisodeId(*map(int, line.split())) for line in lines]


def check_complete(out: Path) -> None:
    results = Results.load(out / "results.json")
    assert results.complete
    assert [(e.id, e.steps) for e in results.episodes] == [
        (EpisodeId(task, state), 3 + 2 * task + state) for task, state in WHOLE
    ]
    assert {(out / e.video).stat().st_size > 0 for e in results.episodes} == {True}
    left = [path.name for folder in (out, out / "videos") for path in folder.glob(".partial*")]
    assert left == []


@pytest.mark.parametrize("moment", ["writing", "written"])
def test_a_kill_while_results_are_written_repeats_no_finished_episode(tmp_path, moment):
    out, log = tmp_path / "out", tmp_path / "log"
    deaths = 0
    for _ in range(10):
        before, played = finished(out), len(starts(log))
        # The first write says what is asked for; every later one comes after an episode.
        process = start(out, log, moment, 4)
        _, errors = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), errors
        deaths += process.returncode != 0
        assert not set(starts(log)[played:]) & set(before)
        assert set(before) <= set(finished(out))
        if process.returncode == 0:
            break
    assert deaths >= 2
    check_complete(out)


def test_kills_at_any_moment_lose_nothing_that_was_finished(tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    dice = random.Random(7)
    for _ in range(6):
        before, played = finished(out), len(starts(log))
        process = start(out, log)
        time.sleep(dice.uniform(0.3, 1.5))
        process.kill()
        process.communicate(timeout=60)
        assert not set(starts(log)[played:]) & set(before)
        assert set(before) <= set(finished(out))
    assert start(out, log).wait(120) == 0
    check_complete(out)


def play(out: Path, **options: object) -> Results:
    common = {"benchmark": FakeBenchmark(), "workers": 1, "checkpoint": "abc", "videos": False}
    arguments = {**common, "episodes_per_task": 2, "settings": PolicySettings(), **options}
    return evaluate(FakePolicy(), "fake", out=out, **arguments)


def test_nothing_is_played_again_and_more_can_be_asked_for(tmp_path):
    log = tmp_path / "log"
    benchmark = FakeBenchmark(played=log)
    first = play(tmp_path, benchmark=benchmark, tasks=[1])
    again = play(tmp_path, benchmark=benchmark, tasks=[1])
    assert again == first
    assert len(starts(log)) == 2
    more = play(tmp_path, benchmark=benchmark, episodes_per_task=3)
    assert more.complete
    assert sorted(starts(log)) == WHOLE
    assert more.started == first.started
    assert more.seconds > first.seconds


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"checkpoint": "abd"}, "checkpoint: abc, abd"),
        ({"depth": "simulator"}, "depth: estimate, simulator"),
        ({"settings": PolicySettings(Execution("receding", steps=2))}, "settings mode: chunk, receding"),
        ({"settings": PolicySettings(tolerance=2)}, "settings tolerance: 0, 2"),
        (
            {"settings": PolicySettings(dtype="bfloat16")},
            "settings dtype: float32, bfloat16, there and now.; give the --precision that it was played in",
        ),
        ({"conventions": {"time_limit": 19}}, "conventions time_limit: 20, 19"),
        ({"conventions": {"gripper": "1 closes"}}, "conventions gripper"),
        ({"conventions": {"state": "two fingers"}}, "conventions state: none, two fingers"),
    ],
)
def test_results_of_something_else_are_refused_and_left_alone(tmp_path, options, what):
    class OtherRules(FakeBenchmark):
        def conventions(self, suite):
            return replace(super().conventions(suite), **options["conventions"])

    play(tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    known = {name: value for name, value in options.items() if name != "conventions"}
    benchmark = OtherRules() if "conventions" in options else FakeBenchmark()
    with pytest.raises(InputError, match=f"(?s)something else.*{what}.*choose another --out"):
        play(tmp_path, benchmark=benchmark, **known)
    assert (tmp_path / "results.json").read_bytes() == before


def test_fewer_episodes_than_there_are_is_an_error(tmp_path):
    play(tmp_path, episodes_per_task=3)
    with pytest.raises(
        InputError, match="3 episodes that are not asked for now, such as task 0 from start state 2"
    ):
        play(tmp_path, episodes_per_task=2)


def test_without_a_hash_nothing_is_taken_for_granted(tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        play(tmp_path, benchmark=FakeBenchmark(played=log), checkpoint=None, tasks=[0])
    assert len(starts(log)) == 4


def test_only_one_evaluation_writes_a_file(tmp_path):
    with (
        claimed(tmp_path / "results.json", "evaluation"),
        pytest.raises(InputError, match="Another evaluation is writing"),
    ):
        play(tmp_path)
    assert play(tmp_path).complete


def test_shards_play_everything_once_into_files_of_their_own(tmp_path):
    log = tmp_path / "log"
    for number in (3, 1, 2):
        results = play(
            tmp_path, benchmark=FakeBenchmark(played=log), episodes_per_task=3, shard=Shard(number, 3)
        )
        assert results.complete
        assert Results.load(tmp_path / f"results-{number}-of-3.json") == results
    assert sorted(starts(log)) == WHOLE
    assert not (tmp_path / "results.json").exists()


def test_decisions_for_the_report_outlive_a_kill(tmp_path):
    keeper = DecisionKeeper(2, tmp_path / "decisions")
    play(tmp_path, keeper=keeper, tasks=[0, 1], depth="simulator")
    later = DecisionKeeper(2, tmp_path / "decisions")
    play(tmp_path, keeper=later, depth="simulator")
    assert {task: [m.step for m in decisions] for task, decisions in later.kept.items()} == {
        0: [0],
        1: [0, 4],
        2: [0, 4],
    }
    for old, new in zip(keeper.kept[1], later.kept[1], strict=True):
        assert (old.observation.image == new.observation.image).all()
        assert old.observation.instruction == new.observation.instruction
        assert (old.observation.extrinsics == new.observation.extrinsics).all()
        assert new.observation.mirrored
        assert (old.observation.depth == new.observation.depth).all()
        assert (old.chunk.tokens == new.chunk.tokens).all()


def test_shards_that_share_a_task_keep_decisions_of_their_own(tmp_path):
    """Each report shows what its own first episode of the task saw; a file that does not say which is passed over."""

    def kept(number: int) -> list[int] | None:
        keeper = DecisionKeeper(2, tmp_path / "decisions")
        play(tmp_path, tasks=[0], episodes_per_task=4, shard=Shard(number, 2), keeper=keeper)
        return [decision.step for decision in keeper.kept[0]] if keeper.kept else None

    assert [kept(number) for number in (1, 2, 1, 2)] == [[0], [0, 4], [0], [0, 4]]
    first = tmp_path / "decisions" / "task00_state00.npz"
    first.rename(first.with_name("task00.npz"))
    assert kept(1) is None
