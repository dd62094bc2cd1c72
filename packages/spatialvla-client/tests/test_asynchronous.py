"""The asynchronous loop in simulated time: what is executed when, whatever the latencies."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialvla_client.asynchronous import AsynchronousLoop
from spatialvla_client.schedule import Schedule

HZ = 20
STEP = 1 / HZ
CHUNK = 4


@dataclass(frozen=True)
class Actions:
    actions: np.ndarray
    tokens: np.ndarray | None


def chunk(first: float, gripper: float = 1.0, tokens: bool = True) -> Actions:
    """Numbered steps: the action of step n has n + 1 in front, its tokens are all n."""
    numbers = first + np.arange(CHUNK)
    actions = np.zeros((CHUNK, 7))
    actions[:, 0], actions[:, 6] = numbers + 1, gripper
    return Actions(actions, np.repeat(numbers[:, None], 3, axis=1).astype(int) if tokens else None)


class SimulatedTime(Executor):
    """A clock that stands still unless moved, and inferences that are done after so many seconds of it."""

    def __init__(self, *latencies: float) -> None:
        """The last of the latencies is that of all further inferences."""
        self.now = 0.0
        self._latencies = list(latencies)
        self._due: list[tuple[float, Future[Any], Callable[[], Any]]] = []

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        latency = self._latencies.pop(0) if len(self._latencies) > 1 else self._latencies[0]
        future: Future[Any] = SimulatedFuture(self, self.now + latency)
        self._due.append((self.now + latency, future, job))
        return future

    def sleep(self, seconds: float) -> None:
        self.until(self.now + seconds)

    def until(self, when: float) -> None:
        for due in sorted((due for due in self._due if due[0] <= when + 1e-9), key=lambda due: due[0]):
            self._due.remove(due)
            self.now, future, job = due
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except Exception as error:
                    future.set_exception(error)
        self.now = max(self.now, when)


class SimulatedFuture(Future[Any]):
    """Waiting for it moves the clock."""

    def __init__(self, time: SimulatedTime, when: float) -> None:
        super().__init__()
        self._time, self._when = time, when

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self._time.until(self._when)
        return super().result(timeout)


@dataclass
class Robot:
    """Counts how far it got; the model tells from that what comes next, so that its plans agree."""

    done: int = 0
    executed: list[np.ndarray] = field(default_factory=list)
    committed: list[np.ndarray | None] = field(default_factory=list)
    asked_at: list[int] = field(default_factory=list)

    def observe(self) -> int:
        self.asked_at.append(len(self.executed))
        return self.done

    def infer(self, observation: int, committed: np.ndarray | None) -> Actions:
        self.committed.append(committed)
        return chunk(observation)

    def execute(self, action: np.ndarray) -> None:
        self.executed.append(action)
        self.done += action[0] != 0

    @property
    def numbers(self) -> list[int]:
        return [int(action[0]) for action in self.executed]


def make(time: SimulatedTime, robot: Robot, **options: Any) -> AsynchronousLoop:
    """A loop that commits to the steps under way, unless `options` says otherwise."""
    return make_plain(time, robot, **{"commit": True} | options)


def make_plain(time: SimulatedTime, robot: Robot, **options: Any) -> AsynchronousLoop:
    return AsynchronousLoop(
        robot.infer, HZ, clock=lambda: time.now, sleep=time.sleep, executor=time, **options
    )


def test_chunks_join_in_time_and_begin_with_what_was_committed():
    time, robot = SimulatedTime(0.08), Robot()
    with make(time, robot) as loop:
        loop.run(robot.observe, robot.execute, steps=12)
        statistics = loop.statistics
    assert robot.numbers == list(range(1, 13))
    assert (statistics.late, statistics.holds, statistics.dropped) == (0, 0, 0)
    assert statistics.committed == 2
    # 80 ms are two steps of 50 ms: asked for with two steps left, which come first in the answer.
    assert robot.asked_at == [0, 2, 4, 6, 8, 10]
    assert robot.committed[0] is None
    for asked, committed in zip(robot.asked_at[1:], robot.committed[1:], strict=False):
        assert committed.tolist() == [[asked] * 3, [asked + 1] * 3]


@given(st.lists(st.floats(0.001, 0.7), min_size=2, max_size=12), st.sampled_from([None, 1, 2]))
def test_no_step_is_skipped_or_done_twice_whatever_the_latencies(latencies, ask_after):
    time, robot = SimulatedTime(*latencies), Robot()
    with make(time, robot, ask_after=ask_after) as loop:
        loop.run(robot.observe, robot.execute, steps=60)
        statistics = loop.statistics
    moved = [number for number in robot.numbers if number]
    assert moved == list(range(1, len(moved) + 1))
    assert statistics.holds == len(robot.numbers) - len(moved)
    for asked, committed in zip(robot.asked_at, robot.committed, strict=False):
        done = sum(number > 0 for number in robot.numbers[:asked])
        rows = [] if committed is None else committed[:, 0].tolist()
        # Committed tokens are those of the steps executed next, whatever happened then.
        following = [number - 1 for number in robot.numbers[asked : asked + len(rows)]]
        assert rows == list(range(done, done + len(rows)))
        assert following == rows[: len(following)], "the run may have ended before"
    if max(latencies) <= STEP:
        assert statistics.holds == statistics.late == 0


@pytest.mark.parametrize("when_late", ["hold", "repeat"])
def test_a_late_chunk_is_waited_for_as_chosen(when_late):
    time, robot = SimulatedTime(0.01, 0.01, 0.22, 0.01), Robot()
    robot.infer = lambda observation, committed: chunk(observation, gripper=0.0)
    with make(time, robot, when_late=when_late) as loop:
        loop.run(robot.observe, robot.execute, steps=14)
        statistics = loop.statistics
    # The third is asked for at step 6, with one step left, and comes before step 11.
    waited = robot.executed[7:11]
    assert statistics.late == 1
    assert statistics.holds == (4 if when_late == "hold" else 5)
    assert [action[6] for action in waited] == [0.0] * 4, "the gripper stays as it was"
    assert [int(action[0]) for action in waited] == ([0] * 4 if when_late == "hold" else [7] * 4)
    if when_late == "hold":
        assert robot.numbers[11:] == [8, 9, 10]
        assert statistics.dropped == 0
    else:
        assert statistics.dropped == 1, "by then all of it was past, and one more step went by without a plan"
    assert statistics.committed == 3, "a chunk that was late once is allowed for"


def test_a_chunk_that_is_a_little_late_replaces_what_is_left_of_the_old_one():
    time, robot = SimulatedTime(0.01, 0.07, 0.01), Robot()
    robot.infer = lambda observation, committed: chunk(observation + 100 * (observation > 0))
    with make(time, robot, ask_after=1) as loop:
        loop.run(robot.observe, robot.execute, steps=4)
        # Asked for at step 1 for step 2, there at step 3: the third step is still the old chunk's.
        assert robot.numbers == [1, 2, 3, 104]
        assert loop.statistics.late == 1
        assert loop.statistics.holds == 0


def test_the_committed_steps_follow_a_high_quantile_of_recent_latencies_and_have_a_cap():
    time, robot = SimulatedTime(3.0, *[0.03] * 5, 0.12, 0.03), Robot()
    with make(time, robot, most_committed=2) as loop:
        loop.run(robot.observe, robot.execute, steps=3)
        assert loop.committed_steps == 2, "all that is known is the first one's, beyond the cap"
        loop.run(robot.observe, robot.execute, steps=16)
        assert loop.committed_steps == 1, "the first one is no measure"
        loop.run(robot.observe, robot.execute, steps=10)
        assert loop.committed_steps == 2
        assert loop.statistics.latency_p50_s == pytest.approx(0.03)
        loop.run(robot.observe, robot.execute, steps=40)
        assert loop.committed_steps == 1, "one in many is left uncovered"


def test_nothing_of_an_old_episode_reaches_a_new_one():
    time, robot = SimulatedTime(0.04, 0.3, 0.04), Robot()
    with make(time, robot) as loop:
        loop.run(robot.observe, robot.execute, steps=4)  # the second is under way
        loop.reset()
        robot.done = 50
        loop.run(robot.observe, robot.execute, steps=8)
        assert robot.numbers[4:] == list(range(51, 59))
        assert loop.statistics.dropped == 1


def test_errors_surface_in_the_control_loop_which_can_go_on():
    time, robot = SimulatedTime(0.01), Robot()
    right, calls = robot.infer, []

    def infer(observation, committed):
        calls.append(observation)
        if len(calls) in (1, 3):
            raise ConnectionError("the server is gone")
        return right(observation, committed)

    robot.infer = infer
    with make(time, robot) as loop:
        with pytest.raises(ConnectionError):
            loop.act(robot.observe)
        loop.run(robot.observe, robot.execute, steps=4)
        with pytest.raises(ConnectionError, match="gone"):
            loop.act(robot.observe)
        loop.run(robot.observe, robot.execute, steps=6)
    moved = [number for number in robot.numbers if number]
    assert moved == list(range(1, len(moved) + 1))


def test_the_model_is_told_nothing_unless_asked_to_be_or_where_there_are_no_tokens():
    for made, tokens in ((make_plain, True), (make, False)):
        time, robot = SimulatedTime(0.04), Robot()

        def infer(observation, committed, tokens=tokens, robot=robot):
            robot.committed.append(committed)
            return chunk(observation, tokens=tokens)

        robot.infer = infer
        with made(time, robot) as loop:
            loop.run(robot.observe, robot.execute, steps=10)
        assert robot.committed
        assert all(committed is None for committed in robot.committed)
        assert robot.numbers == list(range(1, 11)), "chunks still take over at the right step"


def test_run_keeps_the_rhythm_counts_what_was_too_slow_and_ends_when_told():
    time, robot = SimulatedTime(0.04), Robot()
    begins = []

    def execute(action):
        begins.append(time.now)
        robot.execute(action)
        time.sleep(0.12 if len(begins) == 3 else 0.02)
        return len(begins) == 6

    with make(time, robot) as loop:
        assert loop.run(robot.observe, execute) == 6
        assert loop.statistics.overruns == 1
    assert np.diff(begins) == pytest.approx([0.05, 0.05, 0.12, 0.05, 0.05])


@pytest.mark.parametrize("leave", [AsynchronousLoop.reset, AsynchronousLoop.close])
def test_leaving_an_episode_waits_for_the_inference_under_way(leave):
    began, go_on, ended = threading.Event(), threading.Event(), []

    def infer(observation, committed):
        if observation:
            began.set()
            go_on.wait(10)
            ended.append(observation)
            raise ConnectionError("nobody wants to know")
        return chunk(observation)

    robot = Robot()
    with AsynchronousLoop(infer, control_hz=HZ) as loop:
        for _ in range(CHUNK):
            robot.execute(loop.act(robot.observe))
        assert began.wait(10)
        threading.Timer(0.02, go_on.set).start()
        leave(loop)
        assert len(ended) == 1
        assert loop.statistics.dropped == 1


@pytest.mark.parametrize("commit", [False, True])
def test_who_asks_for_it_is_told_the_rest_of_the_plan(commit):
    time, robot, told = SimulatedTime(0.08), Robot(), []

    class Policy:
        def infer(self, observation, committed, under_way=None):
            told.append(None if under_way is None else under_way[:, 0].tolist())
            return chunk(observation)

    robot.infer = Policy().infer
    with make(time, robot, commit=commit, ask_after=1) as loop:
        loop.run(robot.observe, robot.execute, steps=6)
    # Asked at steps 0, 1, 3, 5, with all that is left of the newest chunk.
    assert told[:3] == [None, [2, 3, 4], [4, 5]]


def test_unusable_options():
    robot = Robot()
    for options in ({"control_hz": 0}, {"most_committed": 0}, {"ask_after": 0}, {"when_late": "panic"}):
        with pytest.raises(ValueError, match="must be"):
            AsynchronousLoop(robot.infer, **({"control_hz": HZ} | options))
    with pytest.raises(RuntimeError, match="first chunk"):
        Schedule().advance()


def test_threads_of_its_own_in_real_time():
    robot = Robot()
    names = []

    def infer(observation, committed):
        names.append(threading.current_thread().name)
        time.sleep(0.002)
        return chunk(observation)

    loop = AsynchronousLoop(infer, control_hz=100)
    with loop:
        loop.run(robot.observe, robot.execute, steps=30)
        moved = [number for number in robot.numbers if number]
        assert moved == list(range(1, len(moved) + 1))
        assert loop.statistics.latency_p50_s >= 0.002
    assert len(set(names)) == 1
    assert threading.current_thread().name not in names
    assert not any(thread.name in names for thread in threading.enumerate()), "its thread has ended"
    with pytest.raises(RuntimeError, match="closed"):
        loop.act(robot.observe)


def standstill(when_late: str, blocked: float, **options: Any) -> tuple[Robot, AsynchronousLoop]:
    """Six steps, the third of which takes `blocked` seconds, then four more."""
    time, robot = SimulatedTime(0.08), Robot()
    loop = make(time, robot, when_late=when_late, **options)
    for step in range(10):
        robot.execute(loop.act(robot.observe))
        time.sleep(blocked if step == 2 else STEP)
    return robot, loop


@pytest.mark.parametrize("when_late", ["hold", "repeat"])
def test_nothing_is_executed_of_what_was_seen_too_long_ago(when_late):
    robot, loop = standstill(when_late, blocked=8.0)
    # The chunk that came meanwhile and the plan before it are as old as the standstill.
    assert robot.numbers[:3] == [1, 2, 3]
    assert robot.numbers[3:5] == [0, 0], "it holds still until what it sees now is decided on"
    assert robot.numbers[5:] == [4, 5, 6, 7, 8]
    assert 3 in robot.asked_at, "it looks again at once"
    assert loop.statistics.stale == 2
    assert loop.statistics.holds == 2


@pytest.mark.parametrize("when_late", ["hold", "repeat"])
def test_no_old_action_is_executed_behind_a_camera_that_hangs(when_late):
    time, robot = SimulatedTime(0.08), Robot()
    loop = make(time, robot, when_late=when_late)

    def observe() -> float:
        seen = robot.observe()
        if len(robot.asked_at) == 3:
            time.sleep(8.0)
        return seen

    for _ in range(8):
        began = time.now
        robot.execute(loop.act(observe))
        if time.now - began > 5:
            assert robot.numbers[-1] == 0, "what the plan follows from is eight seconds old"
        time.sleep(STEP)
    assert time.now > 8
    assert loop.statistics.stale == 2


def test_a_short_standstill_changes_nothing():
    robot, loop = standstill("hold", blocked=4.0)
    assert robot.numbers == list(range(1, 11))
    assert loop.statistics.stale == 0


def test_a_repeated_action_ends_with_the_age_of_what_it_follows_from():
    time, robot = SimulatedTime(0.05, 100.0), Robot()
    loop = make(time, robot, when_late="repeat", max_age_s=1.0)
    for _ in range(60):
        robot.execute(loop.act(robot.observe))
        time.sleep(STEP)
    moving = [number for number in robot.numbers if number]
    assert 18 <= len(moving) <= 21, "a second at 20 steps a second"
    assert robot.numbers[-1] == 0


def test_a_policy_that_is_always_too_late_is_an_error():
    time, robot = SimulatedTime(2.0), Robot()
    loop = make(time, robot, max_age_s=1.0)
    with pytest.raises(TimeoutError, match="3 answers in a row"):
        loop.act(robot.observe)
    assert robot.executed == []
    with pytest.raises(ValueError, match="max_age_s"):
        make(time, robot, max_age_s=0)
