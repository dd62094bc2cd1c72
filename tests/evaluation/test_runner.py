import json
import multiprocessing
import os
from pathlib import Path
from time import sleep

import av
import pytest
from fakes import INSTRUCTIONS, FakeBenchmark, FakePolicy

from spatialvla.errors import InputError
from spatialvla.evaluation.play.decisions import DecisionKeeper
from spatialvla.evaluation.play.runner import EvaluationError, evaluate
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.plan import Shard
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.execution import Execution, Executor


def play(tmp_path: Path, benchmark: FakeBenchmark | None = None, **options: object) -> Results:
    common = {"episodes_per_task": 2, "workers": 1, "benchmark": benchmark or FakeBenchmark()}
    arguments = {**common, "settings": PolicySettings(), **options}
    return evaluate(arguments.pop("policy", FakePolicy()), "fake", out=tmp_path, **arguments)


def test_every_episode_is_played_once_and_ends_as_soon_as_it_succeeds(tmp_path):
    policy = FakePolicy()
    results = play(tmp_path, policy=policy, episodes_per_task=3, workers=2)
    assert results.complete
    assert [(e.task, e.start_state, e.steps) for e in results.episodes] == [
        (task, state, 3 + 2 * task + state) for task in range(3) for state in range(3)
    ]
    assert all(e.success for e in results.episodes)
    assert policy.episodes == 9
    assert sum(policy.batches) == sum(-(-e.steps // 4) for e in results.episodes)
    assert not any(policy.depths)
    assert Results.load(tmp_path / "results.json") == results
    assert not multiprocessing.active_children()


def test_how_sure_the_policy_was_goes_with_the_episode_it_was_sure_of(tmp_path):
    results = play(tmp_path, policy=FakePolicy(unsure=True), episodes_per_task=4, workers=2)
    assert Results.load(tmp_path / "results.json") == results
    for episode in results.episodes:
        told = episode.uncertainty
        assert told.steps == tuple(range(0, episode.steps, 4))
        assert told.translation[1:] == told.steps[1:]
        assert told.rotation[1:] == tuple(2 * step for step in told.steps[1:])
        assert told.gripper[1:] == tuple(3 * step for step in told.steps[1:])
        assert told.spread_mm[1:] == tuple(10 * step for step in told.steps[1:])


def test_a_run_goes_on_with_and_without_uncertainty(tmp_path):
    same = {"checkpoint": "ab", "tasks": [0]}
    play(tmp_path, policy=FakePolicy(unsure=True), episodes_per_task=1, **same)
    play(tmp_path, episodes_per_task=2, **same)
    results = play(tmp_path, policy=FakePolicy(unsure=True), episodes_per_task=3, **same)
    assert [episode.uncertainty is not None for episode in results.episodes] == [True, False, True]
    entries = json.loads((tmp_path / "results.json").read_text())["episodes"]
    assert "uncertainty" not in entries[1]


def test_the_time_limit_ends_an_episode_as_a_failure(tmp_path):
    results = play(tmp_path, episodes_per_task=5, tasks=[1])
    assert [e.success for e in results.episodes] == [True, True, True, True, False]
    assert results.episodes[-1].steps == 20
    assert list(results.tasks) == [1]


def test_simulator_depth_reaches_the_policy(tmp_path):
    policy = FakePolicy()
    results = play(tmp_path, policy=policy, depth="simulator", tasks=[0])
    assert policy.depths
    assert all(policy.depths)
    assert results.depth == "simulator"


def test_videos_play_in_real_time(tmp_path):
    results = play(tmp_path, tasks=[2], episodes_per_task=1)
    (episode,) = results.episodes
    assert episode.video == "videos/task02_state00.mp4"
    with av.open(str(tmp_path / episode.video)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        assert stream.codec_context.name == "h264"
    times = [float(frame.pts * frame.time_base) for frame in frames]
    # Decisions at steps 0 and 4, the end at step 7, which stays for a second; 20 steps a second.
    assert times == pytest.approx([0, 4 / 20, 7 / 20, 27 / 20], abs=1e-3)
    assert frames[-1].to_ndarray(format="rgb24").mean() == pytest.approx(7, abs=3)


def test_requests_that_wait_together_become_one_batch(tmp_path):
    class SlowPolicy(FakePolicy):
        def predict(self, observations):
            if len(self.batches) < 3:
                sleep(1)  # long enough for all workers to ask, also on a busy machine
            return super().predict(observations)

    policy = SlowPolicy()
    play(tmp_path, policy=policy, workers=3, videos=False, episodes_per_task=4)
    assert max(policy.batches) > 1


@pytest.mark.parametrize("benchmark", [FakeBenchmark(dies_in=1), FakeBenchmark(breaks_in=1)])
def test_a_broken_worker_is_an_error_that_names_its_task(tmp_path, benchmark):
    with pytest.raises(EvaluationError, match=r"task 1 \(open the drawer\) of fake") as error:
        play(tmp_path, benchmark)
    assert ("exit code 9" if benchmark.dies_in else "the bowl fell off the world") in str(error.value)
    assert not multiprocessing.active_children()
    assert [e.task for e in Results.load(tmp_path / "results.json").episodes] == [0, 0]


def test_an_interrupt_leaves_no_process_and_keeps_what_was_found(tmp_path):
    class InterruptedPolicy(FakePolicy):
        def predict(self, observations):
            if sum(self.batches) == 3:
                raise KeyboardInterrupt
            return super().predict(observations)

    with pytest.raises(KeyboardInterrupt):
        play(tmp_path, policy=InterruptedPolicy())
    assert not multiprocessing.active_children()
    left = Results.load(tmp_path / "results.json")
    assert left.episodes
    assert not left.complete


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": "guess"}, "estimate, simulator"),
        ({"tasks": [3]}, "tasks 0 to 2"),
        ({"tasks": []}, "at least 1 of tasks"),
        ({"episodes_per_task": 0}, "at least 1 of episodes_per_task"),
        ({"workers": 0}, "at least 1 of workers"),
        ({"episodes_per_task": 6}, "Task 0 of fake has 5 start states; play at most that many"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        play(tmp_path, **options)


def test_moments_are_spread_over_the_first_episode(tmp_path):
    keeper = DecisionKeeper(per_episode=2)
    play(tmp_path, keeper=keeper, tasks=[0, 1, 2], episodes_per_task=5)
    assert {task: [m.step for m in decisions] for task, decisions in keeper.kept.items()} == {
        0: [0],
        1: [0, 4],
        2: [0, 4],
    }
    assert keeper.kept[1][0].observation.instruction == INSTRUCTIONS[1]


@pytest.mark.parametrize("number", [1, 2])
def test_every_task_of_a_shard_keeps_decisions(tmp_path, number):
    keeper = DecisionKeeper(per_episode=1)
    results = play(tmp_path, keeper=keeper, episodes_per_task=2, shard=Shard(number, 2))
    assert set(keeper.kept) == set(results.first_start_states) == set(results.planned_tasks)


def test_results_document_carries_rules_and_rates(tmp_path):
    play(tmp_path, tasks=[0, 2], checkpoint="abc", name="nano")
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["schema"] == "spatialvla.evaluation/2"
    assert document["complete"] is True
    assert document["conventions"]["time_limit"] == 20
    assert document["checkpoint"] == "abc"
    assert document["versions"]["spatialvla"]
    assert [(t["task"], t["successes"], t["trials"]) for t in document["tasks"]] == [(0, 2, 2), (2, 2, 2)]


def test_the_environment_of_this_process_stays_as_it_was(tmp_path, monkeypatch):
    monkeypatch.delenv("LP_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    before = dict(os.environ)
    play(tmp_path, tasks=[0], episodes_per_task=1, videos=False)
    assert dict(os.environ) == before


def test_partial_success_is_stored_where_the_benchmark_knows_it(tmp_path):
    results = play(tmp_path / "a", FakeBenchmark(halfway=2), tasks=[0], episodes_per_task=5)
    assert [episode.partial for episode in results.episodes] == [True] * 5
    assert [episode.success for episode in results.episodes] == [True, True, True, True, False]
    assert {e.partial for e in play(tmp_path / "b", tasks=[0]).episodes} == {None}


def test_an_episode_starts_with_an_executor_that_remembers_nothing(tmp_path):
    class Watcher(FakePolicy):
        def decide(self, observations, executors):
            assert len({id(executor) for executor in executors}) == len(observations)
            for observation, executor in zip(observations, executors, strict=True):
                executor.seen = [*executor.seen, int(observation.image[0, 0, 0])]
                assert executor.seen[0] == 0, "the executor knows of another episode"
                assert sorted(executor.seen) == executor.seen
            return super().decide(observations, executors)

    play(tmp_path, policy=Watcher(), workers=2, episodes_per_task=4, videos=False)


@pytest.mark.parametrize(
    "execution",
    [
        Execution("chunk"),
        Execution("receding", steps=3),
        Execution("ensemble"),
        Execution("async", latency_steps=1, commit=True),
        Execution("async", latency_steps=2),
    ],
    ids=lambda execution: f"{execution.mode}{execution.steps}{execution.latency_steps}",
)
def test_every_way_of_executing_chunks_plays_through(tmp_path, execution):
    """The policy's steps are all the same, so that every way needs as many; results say which way it was."""

    class RealExecutors(FakePolicy):
        def new_executor(self):
            return Executor(execution)

    settings = PolicySettings(execution)
    results = play(tmp_path, policy=RealExecutors(), settings=settings, workers=2, videos=False)
    # In the mode async the arm waits for its first chunk, and that counts.
    waited = execution.latency_steps if execution.mode == "async" else 0
    assert [episode.steps for episode in results.episodes] == [
        waited + 3 + 2 * t + s for t in range(3) for s in range(2)
    ]
    assert Results.load(tmp_path / "results.json").settings == settings
