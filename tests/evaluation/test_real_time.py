"""Acting in simulated time: what a robot does while its chunks are inferred."""

from collections.abc import Callable
from concurrent.futures import Executor as Threads
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from fakes import FakeBenchmark, FakePolicy

from spatialvla.errors import InputError
from spatialvla.evaluation.play.real_time import RealTimeExecutor
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.comparison import labels
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.identity import differences
from spatialvla.evaluation.results.latency import Latency
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.execution import Execution, Executor
from spatialvla.types import ActionChunk
from spatialvla_client import AsynchronousLoop

EPISODE = EpisodeId(3, 4)
CHUNK = 4


def chunk(first: int) -> ActionChunk:
    """Step n moves by first + n in all numbers but the gripper, which is 1/8; its tokens are first + n."""
    numbers = first + np.arange(CHUNK)
    actions = np.repeat(numbers[:, None].astype(float), 7, axis=1)
    actions[:, 6] = 0.125
    return ActionChunk(actions, np.repeat(numbers[:, None], 3, axis=1))


def drive(
    execution: Execution, latency: Latency, decisions: int
) -> tuple[list[list[int]], list[list[int] | None]]:
    """What is executed after each decision of a policy whose plan is 1, 2, 3 … (0: held still); what it was told."""
    executor, done, executed, told = RealTimeExecutor(execution, latency, EPISODE), 0, [], []
    for _ in range(decisions):
        rows = executor.committed()
        told.append(None if rows is None else rows[:, 0].tolist())
        steps = executor(chunk(done + 1))[:, 0].round().astype(int).tolist()
        executed.append(steps)
        done += np.count_nonzero(steps)
    return executed, told


WAIT, RECEDE, GO_ON = Execution("chunk"), Execution("receding", steps=2), Execution("async", commit=True)


@pytest.mark.parametrize(
    ("execution", "late", "executed"),
    [
        (WAIT, 0, [[1, 2, 3, 4], [5, 6, 7, 8]]),
        (WAIT, 2, [[0, 0, 1, 2, 3, 4], [0, 0, 5, 6, 7, 8]]),
        (WAIT, 6, [[0] * 6 + [1, 2, 3, 4], [0] * 6 + [5, 6, 7, 8]]),
        (RECEDE, 1, [[0, 1, 2], [0, 3, 4]]),
        (GO_ON, 0, [[1, 2, 3, 4], [5, 6, 7, 8]]),
        (GO_ON, 1, [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        (GO_ON, 2, [[0, 0, 1, 2], [3, 4], [5, 6]]),
        # Fewer steps are left than the next chunk takes: the arm holds still until it comes.
        (GO_ON, 3, [[0, 0, 0, 1], [2, 3, 4], [5, 0, 0], [6, 7, 8], [9, 0, 0]]),
        (GO_ON, 4, [[0, 0, 0, 0, 1], [2, 3, 4, 0], [5, 0, 0, 0], [6, 7, 8, 0]]),
        (GO_ON, 6, [[0] * 6 + [1], [2, 3, 4, 0, 0, 0], [5, 0, 0, 0, 0, 0], [6, 7, 8, 0, 0, 0]]),
    ],
)  # fmt: skip
def test_what_the_robot_does_from_one_observation_to_the_next(execution, late, executed):
    assert drive(execution, Latency.always(late), len(executed))[0] == executed


@pytest.mark.parametrize("late", range(1, 9))
@pytest.mark.parametrize("mode", ["chunk", "receding", "async", "ensemble", "temporal"])
def test_no_step_is_left_out_or_done_twice_however_late_chunks_are(mode, late):
    """Chunks of one plan agree, so that averages of them are the plan's own step."""
    executed, _ = drive(Execution(mode, steps=3), Latency.always(late), 12)
    moved = [step for steps in executed for step in steps if step]
    assert moved == list(range(1, len(moved) + 1))
    assert all(len(steps) >= late for steps in executed)
    assert len(moved) >= 12, "something is executed of two chunks in three, at least"


@pytest.mark.parametrize("late", range(1, 9))
def test_from_the_length_of_a_chunk_on_waiting_is_not_slower(late):
    """The shares of the steps in which the arm moves that docs/how-to/realtime.md tells."""
    shares = []
    for execution in (WAIT, GO_ON):
        executed = drive(execution, Latency.always(late), 40)[0]
        settled = [step for steps in executed[2:] for step in steps]
        shares.append(np.count_nonzero(settled) / len(settled))
    assert shares == pytest.approx([CHUNK / (CHUNK + late), min(1, CHUNK / (2 * late))])


def test_while_nothing_is_left_the_gripper_is_held_as_it_was_last_told():
    executor = RealTimeExecutor(WAIT, Latency.always(2), EPISODE, gripper=0.75)
    first = executor.execute(chunk(1))
    assert first.actions[:2].tolist() == [[0, 0, 0, 0, 0, 0, 0.75]] * 2
    assert first.tokens[:3, 0].tolist() == [-1, -1, 1]
    assert executor(chunk(5))[:2].tolist() == [[0, 0, 0, 0, 0, 0, 0.125]] * 2
    executor.reset()
    assert executor(chunk(1))[0, 6] == 0.75


def test_the_model_is_told_of_the_steps_under_way_where_it_is_to_be():
    assert drive(GO_ON, Latency.always(1), 3)[1] == [None, [4], [7]]
    assert drive(GO_ON, Latency.always(2), 3)[1] == [None, [3, 4], [5, 6]]
    assert drive(GO_ON, Latency.always(6), 4)[1] == [None, [2, 3, 4], [5], [6, 7, 8]]
    assert drive(Execution("async"), Latency.always(2), 3)[1] == [None] * 3
    assert drive(WAIT, Latency.always(2), 3)[1] == [None] * 3


def test_the_draft_is_what_is_left_of_the_last_chunk():
    executor = RealTimeExecutor(GO_ON, Latency.always(1), EPISODE)
    assert executor.draft() is None
    executor(chunk(1))
    assert executor.draft()[:, 0].tolist() == [4, 4, 4, 4]


def test_ensembles_average_what_all_chunks_that_have_come_say_of_the_present():
    executor = RealTimeExecutor(Execution("ensemble", alpha=0.0), Latency.always(1), EPISODE)
    assert executor(chunk(1))[:, 0].tolist() == [0, 1]
    # Seen when one step was over: its own first step is step 2 of the first chunk, executed while it is inferred.
    assert executor(chunk(12))[:, 0].tolist() == [2]
    assert executor(chunk(23))[:, 0].tolist() == [(3 + 13) / 2]
    assert executor(chunk(30))[:, 0].tolist() == [(4 + 14 + 24) / 3]


def test_without_latency_everything_is_as_where_the_world_waits():
    random = np.random.default_rng(0)
    for mode in ("chunk", "receding", "ensemble", "temporal"):
        execution = Execution(mode, steps=3)
        waiting, real = Executor(execution), RealTimeExecutor(execution, Latency.always(0), EPISODE)
        for _ in range(6):
            made = ActionChunk(random.normal(size=(CHUNK, 7)), random.integers(0, 9, (CHUNK, 3)))
            played, expected = real.execute(made), waiting.execute(made)
            np.testing.assert_allclose(played.actions, expected.actions)
            np.testing.assert_array_equal(played.tokens, expected.tokens)
            np.testing.assert_array_equal(real.draft(), waiting.draft())


class SimulatedInference(Threads):
    """Answers come `latency` seconds after they were asked for, by a clock that only the test moves."""

    def __init__(self, latency: float) -> None:
        self.latency, self.now = latency, 0.0

    def submit(self, function: Callable, *arguments) -> Future:
        threads, due = self, self.now + self.latency

        class Answer(Future):
            def done(self) -> bool:
                return threads.now >= due - 1e-9

            def result(self, timeout=None):
                threads.now = max(threads.now, due)
                return function(*arguments)

        return Answer()

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("late", range(1, 9))
def test_asynchronous_is_what_the_clients_loop_does(late):
    """The same plan through `AsynchronousLoop`, in simulated time: the same steps, told of the same tokens."""
    executed, told = drive(GO_ON, Latency.always(late), 20)
    threads, told_there = SimulatedInference(late / 20), []
    moved: list[int] = []

    def observe() -> int:
        return len(np.flatnonzero(moved)) + 1

    def infer(first: int, committed: np.ndarray | None) -> ActionChunk:
        told_there.append(None if committed is None else committed[:, 0].tolist())
        return chunk(first)

    loop = AsynchronousLoop(
        infer,
        20,
        most_committed=CHUNK - 1,
        commit=True,
        clock=lambda: threads.now,
        sleep=threads.sleep,
        executor=threads,
    )
    flat = [step for steps in executed for step in steps][late:]  # the loop does not count its first wait
    loop.run(observe, lambda action: moved.append(int(action[0])), steps=len(flat))
    assert moved == flat
    assert told_there == told[: len(told_there)]
    assert len(told_there) >= 19


def test_latencies_are_drawn_alike_whenever_an_episode_is_played():
    latency = Latency((1, 0, 2, 1))
    drawn = [list(islice(latency.draw(episode), 500)) for episode in (EPISODE, EPISODE, EpisodeId(3, 5))]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == {0, 2, 3}
    assert np.bincount(drawn[0]) / 500 == pytest.approx([0.25, 0, 0.5, 0.25], abs=0.06)
    assert set(islice(Latency.always(3).draw(EPISODE), 9)) == {3}
    assert latency.expected == 3
    assert Latency.always(3).expected == 3
    assert Latency((50, 45, 0, 5)).expected == 1


def test_measured_milliseconds_are_rounded_up_to_control_steps(tmp_path):
    milliseconds = [0, 1, 50, 50.1, 149, 150]
    assert Latency.measured(milliseconds, 20).counts == (1, 2, 1, 2)
    assert Latency.parse("3", 20) == Latency.always(3) == Latency((0, 0, 0, 1))
    listed, named, table = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "c.csv"
    listed.write_text(str(milliseconds))
    named.write_text(f'{{"policy": "nano", "latency_ms": {milliseconds}}}')
    table.write_text("step,latency_ms\n" + "\n".join(f"{n},{each}" for n, each in enumerate(milliseconds)))
    for file in (listed, named, table):
        assert Latency.parse(str(file), 20).counts == (1, 2, 1, 2)
    assert Latency.parse(str(listed), 5).counts == (1, 5)
    assert (
        str(Latency.parse(str(table), 20))
        == "0 to 3 control steps late (measured: 1 × 0, 2 × 1, 1 × 2, 2 × 3)"
    )
    assert str(Latency.always(1)) == "1 control step late"


@pytest.mark.parametrize(
    ("text", "content", "sentence"),
    [
        ("fast", None, "whole number of control steps, or a .json or .csv file"),
        ("-1", None, "whole number of control steps"),
        ("51", None, "A latency of 51 control steps is too long to play; at most 50"),
        ("²", None, "whole number of control steps"),
        ("999999999999", None, "too long to play"),
        ("gone.json", None, "gone.json: It cannot be read (No such file"),
        ("bad.json", "[1, 2", "It is no JSON"),
        ("bad.json", '{"seconds": [1]}', "a list or column latency_ms of numbers"),
        ("bad.json", "[]", "a list or column latency_ms"),
        ("bad.json", '[1, "x"]', "a list or column latency_ms"),
        ("bad.json", "[1, true]", "a list or column latency_ms"),
        ("bad.json", "[1, NaN]", "0 or more, not nan"),
        ("bad.json", "[1, -2]", "0 or more, not -2"),
        ("bad.json", "[1, 1e300]", "1e+300 ms is"),
        ("bad.json", "[1" + 400 * "0" + "]", "a list or column latency_ms of numbers"),
        ("bad.csv", "latency_ms\n" + 200_000 * "1", "It is no CSV"),
        ("bad.json", "[2600]", "2600 ms is 52 control steps, too long to play"),
        ("bad.csv", "ms\n3\n", "a list or column latency_ms"),
        ("bad.csv", "step,latency_ms\n1\n", "a list or column latency_ms"),
    ],
)
def test_what_is_no_latency(tmp_path, text, content, sentence):
    path = tmp_path / text
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as error:
        Latency.parse(str(path) if path.suffix else text, 20)
    assert sentence in str(error.value)


def test_an_evaluation_in_real_time_is_later_says_so_and_goes_on_only_as_late(tmp_path):
    settings = PolicySettings(WAIT, latency=Latency.always(2))

    def play(settings: PolicySettings, episodes: int = 1) -> Results:
        return evaluate(
            FakePolicy(), "fake", episodes, benchmark=FakeBenchmark(), settings=settings, out=tmp_path, workers=1,
            videos=False, checkpoint="abc",
        )  # fmt: skip

    results = play(settings)
    # Tasks take 3, 5 and 7 steps of motion, four to a chunk, behind two still ones each.
    assert [episode.steps for episode in results.episodes] == [2 + 3, 4 + 5, 4 + 7]
    assert Results.load(tmp_path / "results.json") == results
    assert str(results.settings) == "whole chunks; in real time, 2 control steps late"
    assert len(play(settings, 2).episodes) == 6
    with pytest.raises(InputError, match="settings latency: 2 control steps late, 3 control steps late"):
        play(PolicySettings(WAIT, latency=Latency.always(3)), 2)
    with pytest.raises(InputError, match="settings latency: 2 control steps late, none"):
        play(PolicySettings(WAIT), 2)
    same = Results.load(tmp_path / "results.json")
    assert not differences(same, results)
    told_apart = labels([results, replace(results, settings=PolicySettings(WAIT, latency=Latency.always(3)))])
    assert told_apart == tuple(
        f"policy (whole chunks; in real time, {late} control steps late)" for late in (2, 3)
    )


def test_what_waited_is_stored_as_it_always_was(tmp_path):
    evaluate(
        FakePolicy(), "fake", 1, benchmark=FakeBenchmark(), settings=PolicySettings(), out=tmp_path, workers=1,
        videos=False,
    )  # fmt: skip
    assert "latency" not in Results.load(tmp_path / "results.json").to_json()["settings"]
