"""Execution: what is executed of a chunk, and the guess of the next one."""

import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.execution import Execution, Executor
from spatialvla.types import ActionChunk


def chunk(value: float, steps: int = 4) -> ActionChunk:
    """The action of step n is value + n in all its numbers, its tokens are value + n."""
    numbers = value + np.arange(float(steps))
    return ActionChunk(
        np.repeat(numbers[:, None], 7, axis=1), np.repeat(numbers[:, None], 3, axis=1).astype(int)
    )


def test_open_loop_and_receding_horizon():
    assert np.array_equal(Executor(Execution("chunk"))(chunk(0)), chunk(0).actions)
    assert np.array_equal(Executor(Execution("receding", steps=2))(chunk(0)), chunk(0).actions[:2])


def test_ensemble_averages_what_chunks_say_of_the_present():
    executor = Executor(Execution("ensemble", alpha=0.0))
    assert np.allclose(executor(chunk(1.0))[0], 1.0)
    # The older chunk says 2 of this step, the newer one 3.
    second = executor(chunk(3.0))[0]
    assert np.allclose(second[:6], 2.5)
    assert second[6] == 3.0, "the gripper is not averaged"
    executor.reset()
    assert np.allclose(executor(chunk(7.0))[0], 7.0)


def test_ensemble_prefers_similar_predictions():
    def blend(alpha: float) -> np.ndarray:
        executor = Executor(Execution("ensemble", alpha=alpha))
        opposite, newest = np.zeros((4, 7)), np.zeros((4, 7))
        opposite[:, 0], newest[:, 0] = -1, 1
        executor(ActionChunk(opposite, np.zeros((4, 3), int)))
        return executor(ActionChunk(newest, np.zeros((4, 3), int)))[0]

    assert blend(0.0)[0] == pytest.approx(0.0)
    assert blend(0.5)[0] == pytest.approx(np.tanh(0.5))


def test_the_temporal_ensemble_weighs_by_age_as_published():
    """SimplerEnv's ActionEnsembler(4, -0.8): the i-th oldest of n chunks weighs exp(0.8 i), the gripper included."""
    executor = Executor(Execution("temporal"))
    rng = np.random.default_rng(0)
    history: list[np.ndarray] = []
    for _ in range(6):
        actions = rng.normal(size=(4, 7))
        history = [*history, actions][-4:]
        oldest_first = np.stack([past[len(history) - 1 - i] for i, past in enumerate(history)])
        weights = np.exp(0.8 * np.arange(len(history)))
        expected = (weights[:, None] * oldest_first).sum(axis=0) / weights.sum()
        np.testing.assert_allclose(executor(ActionChunk(actions, np.zeros((4, 3), int)))[0], expected)
    executor.reset()
    assert np.allclose(executor(chunk(7.0))[0], 7.0)


@pytest.mark.parametrize("sharpness", [400.0, 1e4, 1.7e308])
def test_the_sharpest_weights_leave_one_chunk(sharpness):
    def last(execution: Execution) -> float:
        executor = Executor(execution)
        actions = [np.full((4, 7), value) for value in (-1.0, 0.5, 1.0)]
        return [executor(ActionChunk(each, np.zeros((4, 3), int))) for each in actions][-1][0, 0]

    assert last(Execution("temporal", temperature=-sharpness)) == pytest.approx(1.0), "the newest"
    assert last(Execution("temporal", temperature=sharpness)) == pytest.approx(-1.0), "the oldest"
    assert last(Execution("ensemble", alpha=sharpness)) == pytest.approx(0.75), "both that are alike"
    assert last(Execution("ensemble", alpha=-sharpness)) == pytest.approx(-1.0), "the least alike"
    nothing = Executor(Execution("ensemble", alpha=sharpness))
    assert (nothing(ActionChunk(np.zeros((4, 7)), np.zeros((4, 3), int))) == 0).all()


def test_ensemble_forgets_chunks_that_say_nothing_of_the_present():
    executor = Executor(Execution("ensemble", alpha=0.0))
    for _ in range(10):
        executor(chunk(100.0))
    for _ in range(4):
        last = executor(chunk(0.0))
    assert last[0, 0] == pytest.approx(np.mean([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("execution", "shifted"),
    [
        (Execution("chunk"), [3, 3, 3, 3]),
        (Execution("receding", steps=1), [1, 2, 3, 3]),
        (Execution("receding", steps=3), [3, 3, 3, 3]),
        (Execution("ensemble"), [1, 2, 3, 3]),
    ],
)
def test_the_draft_is_the_last_chunk_shifted_by_what_was_executed(execution, shifted):
    executor = Executor(execution)
    assert executor.draft() is None
    executor(chunk(5))
    executor(chunk(0))
    assert executor.draft()[:, 0].tolist() == shifted
    executor.reset()
    assert executor.draft() is None


def test_committed_steps_tell_the_draft_how_far_the_chunk_was_executed():
    executor = Executor(Execution())
    executor.remember(chunk(0), 4)
    assert executor.draft(chunk(1, 2).tokens)[:, 0].tolist() == [1, 2, 3, 3]
    assert executor.draft(chunk(3, 1).tokens)[:, 0].tolist() == [3, 3, 3, 3]
    assert executor.draft(chunk(7, 2).tokens)[:, 0].tolist() == [3, 3, 3, 3], "found nowhere"


def drive(latency: int, decisions: int, commit: bool = True) -> tuple[list[int], list[list[int]]]:
    """The numbers of the steps executed by a policy whose plans agree, and what was committed at each decision."""
    executor, executed, committed = Executor(Execution("async", latency_steps=latency, commit=commit)), [], []
    for _ in range(decisions):
        rows, draft = executor.committed(), executor.draft()
        done = len([number for number in executed if number])
        committed.append([] if rows is None else (rows[:, 0] - done).tolist())
        assert draft is None or draft[0, 0] == min(done + 1, draft.max()) or latency == 0
        executed += executor(chunk(done + 1))[:, 0].astype(int).tolist()
    return executed, committed


def test_without_latency_asynchronous_execution_is_open_loop():
    executed, committed = drive(0, 3)
    assert executed == list(range(1, 13))
    assert committed == [[], [], []]


def test_an_asynchronous_chunk_takes_over_after_the_committed_steps():
    executed, committed = drive(1, 4)
    assert executed == list(range(1, 13)), "three steps of each chunk until it is time to look again"
    assert committed == [[], [1], [1], [1]]
    executed, committed = drive(2, 4)
    assert executed == list(range(1, 9))
    assert committed[1:] == [[1, 2]] * 3
    executed, committed = drive(1, 4, commit=False)
    assert executed == list(range(1, 13)), "the steps under way are skipped all the same"
    assert committed == [[]] * 4


def test_the_robot_waits_where_a_chunk_has_too_few_steps_for_the_latency():
    executed, committed = drive(3, 4)
    assert [number for number in executed if number] == list(range(1, sum(map(bool, executed)) + 1))
    assert 0 in executed
    assert all(rows == list(range(1, len(rows) + 1)) for rows in committed)
    executor = Executor(Execution("async", latency_steps=4))
    with pytest.raises(InputError, match="4 steps is over before a latency of 4"):
        executor(chunk(0))


@pytest.mark.parametrize("latency", [0, 1, 2, 3])
def test_the_tokens_are_those_of_the_executed_steps(latency):
    executor = Executor(Execution("async", latency_steps=latency))
    held = 0
    for value in (100, 200, 300, 400):
        executed = executor.execute(chunk(value))
        still = ~executed.actions[:, :6].any(axis=1)
        held += still.sum()
        assert (executed.tokens[still] == -1).all()
        assert np.array_equal(executed.tokens[~still], executed.actions[~still, :3].astype(int))
    assert (held > 0) == (latency == 3)


@pytest.mark.parametrize(("mode", "steps"), [("chunk", 4), ("receding", 2), ("ensemble", 1), ("temporal", 1)])
def test_the_tokens_are_the_newest_chunks_where_nothing_is_left_of_others(mode, steps):
    executor = Executor(Execution(mode, steps=2))
    for value in (100, 200):
        assert np.array_equal(executor.execute(chunk(value)).tokens, chunk(value).tokens[:steps])


@pytest.mark.parametrize("mode", ["async", "ensemble", "temporal"])
def test_where_another_loop_took_over_no_earlier_plan_is_executed(mode):
    executor = Executor(Execution(mode, latency_steps=1, commit=True))
    executor(chunk(100))
    executor.remember(chunk(200), 4)
    assert executor.committed() is None
    assert np.array_equal(executor(chunk(300)), Executor(executor.execution)(chunk(300)))


def test_unusable_executions():
    with pytest.raises(InputError, match="execution mode"):
        Execution("closed")
    with pytest.raises(InputError, match="at least 1"):
        Execution("receding", steps=0)
    with pytest.raises(InputError, match="0 or more"):
        Execution("async", latency_steps=-1)
