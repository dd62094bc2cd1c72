"""The engine: what waits is batched, everyone gets a turn, and whoever fails, fails alone."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_policy import CHUNK, SIZE, TOKENS, FakePolicy, expected
from running import picture

from spatialvla.errors import InputError
from spatialvla.execution import WHOLE_CHUNKS, Executor
from spatialvla.serving.engine.batching import Engine
from spatialvla.serving.engine.requests import PolicyRequest
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.engine.turns import Client
from spatialvla.serving.failures import Busy, DeadlineExceeded, Draining, InternalError, UnsafeAction
from spatialvla.types import ActionChunk, CameraImage, Observation


def observation(text: str, value: int = 0, depth: bool = False) -> Observation:
    image = np.full((8, 8, 3), value, np.uint8)
    return Observation(image, text, depth=np.ones((8, 8)) if depth else None)


def request(seen: Observation, executor: Executor | None = None, **more: Any) -> PolicyRequest:
    return PolicyRequest(seen, executor or Executor(WHOLE_CHUNKS), **more)


@pytest.fixture
def policy() -> FakePolicy:
    return FakePolicy()


@pytest.fixture
def engine(policy: FakePolicy) -> Iterator[Engine]:
    engine = Engine(policy, settings=EngineSettings(max_batch=4, max_queue=8, max_per_client=3))
    engine.start()
    yield engine
    policy.gate.set()
    engine.drain(5)


def hold(engine: Engine, policy: FakePolicy):
    """Keeps the model busy with one request until the gate opens."""
    policy.gate.clear()
    first = engine.submit(request(observation("first")), client=Client("first"))
    while engine.metrics.value("queued_requests"):
        time.sleep(0.001)
    return first


def test_what_queued_during_a_batch_is_the_next_batch(engine, policy):
    futures = [hold(engine, policy)]
    for number in range(6):
        futures.append(engine.submit(request(observation(str(number), number)), client=Client(number)))
    policy.gate.set()
    answers = [future.result(5) for future in futures]
    assert [len(batch) for batch in policy.batches] == [1, 4, 2]
    for answer in answers:
        assert np.array_equal(answer.chunk.actions, expected(answer.request.observation))
    assert answers[1].timings.batch == 4
    assert answers[1].timings.queue_ms >= 0


def test_clients_take_turns(engine, policy):
    """Three requests of one client do not come before another's first."""
    futures = [hold(engine, policy)]
    futures += [engine.submit(request(observation(f"flood {n}")), client=Client("flood")) for n in range(3)]
    futures += [engine.submit(request(observation(f"quiet {n}")), client=Client(n)) for n in range(3)]
    policy.gate.set()
    wait(futures, 5)
    assert policy.batches[1] == ["flood 0", "quiet 0", "quiet 1", "quiet 2"]
    assert policy.batches[2] == ["flood 1", "flood 2"]


def test_the_queue_is_bounded(engine, policy):
    futures = [hold(engine, policy)]
    futures += [engine.submit(request(observation("one")), client=Client("one")) for _ in range(3)]
    with pytest.raises(Busy, match="already has 3 requests waiting"):
        engine.submit(request(observation("one")), client=Client("one"))
    futures += [engine.submit(request(observation("x")), client=Client(n)) for n in range(5)]
    futures += [engine.submit(request(observation("late")), client=Client("late"))]
    with pytest.raises(Busy, match="others have fewer requests waiting"):
        futures.pop(3).result(5)
    with pytest.raises(Busy, match="8 requests are waiting"):
        engine.submit(request(observation("x")), client=Client(0))
    assert engine.metrics.value("requests_total", outcome="busy") == 3
    policy.gate.set()
    assert all(future.result(5) for future in futures), "what was accepted is answered"
    assert engine.submit(request(observation("late")), client=Client("late")).result(5)


@pytest.mark.parametrize(
    ("text", "error"),
    [("crash", InternalError), ("refuse", InputError), ("nan", UnsafeAction), ("not finite", UnsafeAction)],
)
def test_a_request_fails_alone(engine, policy, text, error):
    futures = [hold(engine, policy)]
    futures += [engine.submit(request(observation(t)), client=Client(t)) for t in ("good", text, "better")]
    policy.gate.set()
    assert futures[1].result(5).request.observation.instruction == "good"
    assert futures[3].result(5).request.observation.instruction == "better"
    with pytest.raises(error) as caught:
        futures[2].result(5)
    assert "secret" not in str(caught.value)
    assert engine.submit(request(observation("after")), client=Client("after")).result(5)


def test_a_batch_that_fails_only_together_is_answered_one_by_one(engine, policy):
    futures = [hold(engine, policy)]
    futures += [engine.submit(request(observation("batch crash", n)), client=Client(n)) for n in range(3)]
    policy.gate.set()
    for future in futures[1:]:
        answer = future.result(5)
        assert np.array_equal(answer.chunk.actions, expected(answer.request.observation))


def test_requests_with_and_without_depth_do_not_share_a_batch(engine, policy):
    futures = [hold(engine, policy)]
    futures += [
        engine.submit(request(observation(f"{n}", depth=bool(n % 2))), client=Client(n)) for n in range(4)
    ]
    policy.gate.set()
    wait(futures, 5)
    assert policy.batches[1:] == [["0", "2"], ["1", "3"]]


def test_rows_share_a_batch_with_those_of_the_same_cameras_and_sensors():
    policy = FakePolicy(cameras=("image", "wrist"), state_size=2)
    engine = Engine(policy)
    engine.start()
    depth = np.ones((SIZE, SIZE), np.float32)
    wrist = CameraImage(picture(1))
    both = {"wrist": wrist}
    rows = [
        Observation(picture(0), "alone", state=np.zeros(2)),
        Observation(picture(0), "both", images=both, state=np.zeros(2)),
        Observation(picture(0), "front depth", depth=depth, images=both),
        Observation(picture(0), "wrist depth", images={"wrist": replace(wrist, depth=depth)}),
        Observation(picture(0), "alone, no state"),
        Observation(picture(0), "both, no state", images=both),
    ]
    futures = [hold(engine, policy)]
    futures += [engine.submit(request(seen), client=Client(n)) for n, seen in enumerate(rows)]
    policy.gate.set()
    wait(futures, 5)
    engine.drain(1)
    assert policy.batches[1:] == [
        ["alone", "alone, no state"],
        ["both", "both, no state"],
        ["front depth"],
        ["wrist depth"],
    ]


def test_a_request_that_waited_too_long_is_not_run(engine, policy):
    hold(engine, policy)
    late = engine.submit(request(observation("late"), timeout=0.01), client=Client("late"))
    patient = engine.submit(request(observation("patient")), client=Client("patient"))
    time.sleep(0.03)
    policy.gate.set()
    with pytest.raises(DeadlineExceeded):
        late.result(5)
    patient.result(5)
    assert ["late"] not in policy.batches


def test_a_request_that_was_taken_back_is_not_run(engine, policy):
    first = hold(engine, policy)
    gone = engine.submit(request(observation("gone")), client=Client("gone"))
    assert gone.cancel()
    policy.gate.set()
    first.result(5)
    engine.submit(request(observation("after")), client=Client("after")).result(5)
    assert all("gone" not in batch for batch in policy.batches)


def test_a_bad_request_never_reaches_the_queue(policy):
    def refuse(seen: Observation) -> None:
        raise InputError("no picture")

    engine = Engine(policy, check=refuse)
    engine.start()
    with pytest.raises(InputError, match="no picture"):
        engine.submit(request(observation("x")), client=Client(0))
    assert engine.metrics.value("requests_total", outcome="bad_input") == 1
    assert engine.drain(5)
    assert policy.batches == []


def test_drafts_and_prefixes_reach_the_policy_in_their_rows(engine, policy):
    futures = [hold(engine, policy)]
    played = Executor(WHOLE_CHUNKS)
    chunk = ActionChunk(np.zeros((CHUNK, 7)), np.tile(TOKENS, (CHUNK, 1)))
    played.remember(chunk, executed=CHUNK)
    futures.append(engine.submit(request(observation("a"), played), client=Client("a")))
    futures.append(engine.submit(request(observation("b"), committed=TOKENS[None]), client=Client("b")))
    policy.gate.set()
    wait(futures, 5)
    assert np.array_equal(policy.drafts[1][0], chunk.tokens)
    assert policy.drafts[1][1] is None
    assert [len(rows) for rows in policy.committed[1]] == [0, 1]


def test_draining_answers_what_waits_and_refuses_the_rest(engine, policy):
    futures = [hold(engine, policy)]
    futures += [engine.submit(request(observation("x")), client=Client(n)) for n in range(5)]
    engine.stop_accepting()
    assert not engine.ready
    with pytest.raises(Draining):
        engine.submit(request(observation("late")), client=Client("late"))
    policy.gate.set()
    assert engine.drain(5)
    assert all(future.done() and future.exception() is None for future in futures)


def test_what_cannot_be_answered_in_time_is_refused_not_forgotten(engine, policy):
    first = hold(engine, policy)
    waiting = engine.submit(request(observation("x")), client=Client("x"))
    assert not engine.drain(0.05)
    with pytest.raises(Draining):
        waiting.result(1)
    policy.gate.set()
    first.result(5)


def test_a_lone_client_does_not_wait_for_others(engine):
    """Time between its requests is none of the engine's business."""
    for _ in range(3):
        answer = engine.submit(request(observation("alone")), client=Client("alone")).result(5)
        assert answer.timings.batch == 1


def test_clients_answered_together_stay_together():
    """Their next requests arrive a little apart, and still share a batch."""
    policy = FakePolicy(seconds=0.05)
    engine = Engine(policy, settings=EngineSettings(gather_ms=500, gather_share=10))
    engine.start()
    hold(engine, policy)
    futures = [engine.submit(request(observation("x")), client=Client(n)) for n in range(3)]
    policy.gate.set()
    wait(futures, 5)
    futures = []
    for client in range(3):
        futures.append(engine.submit(request(observation("x")), client=Client(client)))
        time.sleep(0.01)
    wait(futures, 5)
    engine.drain(5)
    assert [len(batch) for batch in policy.batches] == [1, 3, 3]


def test_many_tasks_each_get_their_own_answer(engine):
    async def client(number: int) -> None:
        for step in range(10):
            sent = observation("x" * (1 + number), (7 * number + step) % 256)
            answer = await asyncio.wrap_future(engine.submit(request(sent), client=Client(number)))
            assert np.array_equal(answer.chunk.actions, expected(sent))

    async def all_clients() -> None:
        await asyncio.gather(*(client(number) for number in range(8)))

    asyncio.run(all_clients())


def test_warm_up_runs_alone_and_as_a_full_batch(policy):
    engine = Engine(policy, settings=EngineSettings(max_batch=4))
    assert not engine.ready
    engine.start([request(observation("warm"))])
    assert engine.ready
    assert [len(batch) for batch in policy.batches] == [1, 4]
    assert engine.drain(5)


def test_a_policy_that_answers_nan_does_not_start(policy):
    engine = Engine(policy)
    with pytest.raises(UnsafeAction):
        engine.start([request(observation("nan"))])
    assert not engine.ready


def test_a_policy_that_answers_too_few_is_an_error_not_a_swap():
    class Short(FakePolicy):
        def decide(self, observations, executors) -> list[ActionChunk]:
            return super().decide(observations, executors)[: len(observations) - 1]

    engine = Engine(Short())
    engine.start()
    with pytest.raises(InternalError):
        engine.submit(request(observation("x")), client=Client(0)).result(5)
    engine.drain(5)


def test_settings_are_checked():
    with pytest.raises(InputError, match="max_batch"):
        EngineSettings(max_batch=0)
