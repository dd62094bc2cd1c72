"""A real policy behind the engine: it says what it says alone, and a bad request fails before it shares a batch."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

import numpy as np
import pytest

from spatialvla import Policy
from spatialvla.errors import InputError
from spatialvla.execution import Execution, Executor
from spatialvla.serving.engine.batching import Engine
from spatialvla.serving.engine.service import Service, service_for
from spatialvla.types import Observation

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (96, 160, 3), dtype=np.uint8)
K = np.array([[120.0, 0, 80], [0, 110, 50], [0, 0, 1]])
DEPTH = RNG.uniform(0.3, 2, (96, 160))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.from_pretrained("nano")


@pytest.fixture(scope="module")
def service(policy: Policy) -> Iterator[Service]:
    service = service_for(policy)
    yield service
    assert service.engine.drain(30)


@pytest.mark.wrong_arrays
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": np.zeros((4, 4), np.float64)}, "uint8"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "shape"),
        ({"image": np.zeros((5000, 4, 3), np.uint8)}, "2048"),
        ({"image": np.zeros(7, np.uint8)}, "shape"),
        ({"instruction": ""}, "empty"),
        ({"instruction": "\n "}, "empty"),
        ({"instruction": "go " * 500}, "1500 characters"),
        ({"intrinsics": np.eye(4)}, "3x3"),
        ({"intrinsics": -np.eye(3)}, "form"),
        ({"intrinsics": np.eye(3)}, "focal length"),
        ({"intrinsics": np.array([[120.0, 0, 1e30], [0, 110, 50], [0, 0, 1]])}, "principal point"),
        ({"depth": np.full((96, 160), np.nan)}, "NaN"),
        ({"depth": np.full((96, 160), 1e30)}, "1e\\+30 meters"),
        ({"depth": np.full((96, 160, 1), 1.0)}, r"\(H, W\)"),
        ({"depth": np.full((96, 5000), 1.0)}, "2048"),
    ],
)
def test_bad_observations(service, changes, sentence):
    before = service.engine.metrics.value("requests_total", outcome="bad_input")
    with pytest.raises(InputError, match=sentence):
        service.session().submit(replace(Observation(IMAGE, "x"), **changes))
    assert service.engine.metrics.value("requests_total", outcome="bad_input") == before + 1


@pytest.mark.wrong_arrays
def test_committed_tokens_are_of_their_kind(service, policy):
    (chunk,) = policy.predict([Observation(IMAGE, "x")])
    session = service.session()
    for steps in (0, 1, 3):
        given = chunk.tokens[:steps]
        decision = session.finish(session.submit(Observation(IMAGE, "x"), committed=given).result(60))
        assert np.array_equal(decision.tokens[:steps], given)
    for bad in (
        chunk.tokens[:, ::-1],
        chunk.tokens - 10**6,
        chunk.tokens.astype(float),
        np.tile(chunk.tokens, (2, 1)),
        np.array(5),
    ):
        with pytest.raises(InputError, match="token"):
            session.submit(Observation(IMAGE, "x"), committed=bad)


@pytest.mark.parametrize("mode", ["chunk", "receding", "ensemble", "temporal"])
def test_the_horizon_that_clients_are_told_is_what_they_get(policy, mode):
    policy = copy(policy)
    policy.execution = Execution(mode, steps=2)
    (chunk,) = policy.predict([Observation(IMAGE, "x")])
    service = Service(policy, Engine(policy), chunk=len(chunk.actions))
    assert service.horizon == len(policy.new_executor()(chunk))


def test_only_a_client_that_committed_steps_merges_chunks_itself(service, policy):
    seen = Observation(IMAGE, "x")
    (chunk,) = policy.predict([seen])
    for committed, steps in ((None, 2), (np.zeros((0, 3), int), 2), (chunk.tokens[:1], 4)):
        session = service.session(Executor(Execution("receding", steps=2)))
        decision = session.finish(session.submit(seen, committed=committed).result(60))
        assert len(decision.actions) == len(decision.tokens) == steps


def test_tokens_are_sent_of_the_steps_that_are(service, policy):
    session = service.session(Executor(Execution("async", latency_steps=1)))
    for picture in (IMAGE, IMAGE[::-1].copy(), IMAGE[:, ::-1].copy()):
        decision = session.finish(session.submit(Observation(picture, "x")).result(60))
        decoded = policy.processor.actions(decision.tokens[None], policy.dataset)[0]
        np.testing.assert_allclose(decision.actions, decoded)


def test_it_says_what_it_says_alone(service, policy):
    """Batches of several clients, with and without depth, drafts and committed steps."""
    seen = [
        Observation(IMAGE, "pick up the black bowl"),
        Observation(IMAGE[::-1].copy(), "open the drawer and put it in", intrinsics=K),
        Observation(IMAGE[:, ::-1].copy(), "push the plate", intrinsics=K, depth=DEPTH),
    ]
    alone = [policy.predict([one])[0] for one in seen]
    sessions = [service.session() for _ in seen]
    for _ in range(3):  # the first request of a session has no draft, the next ones have
        futures = [session.submit(one) for session, one in zip(sessions, seen, strict=True)]
        for session, future, chunk in zip(sessions, futures, alone, strict=True):
            decision = session.finish(future.result(60))
            assert np.array_equal(decision.tokens, chunk.tokens)
            assert np.array_equal(decision.actions, chunk.actions)
    committed = alone[1].tokens[1:3]
    going_on = sessions[0].finish(sessions[0].submit(seen[0], committed=committed).result(60))
    assert np.array_equal(going_on.tokens[:2], committed)
    assert len(going_on.actions) == len(alone[0].actions)
