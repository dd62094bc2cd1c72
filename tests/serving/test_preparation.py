"""Preparation: what comes out predicts what went in would have, and a bad request never gets that far."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from spatialvla import Policy
from spatialvla.errors import InputError
from spatialvla.serving.engine.preparation import Preparation
from spatialvla.serving.engine.requests import ChunkRequest
from spatialvla.serving.engine.service import service_for
from spatialvla.types import Observation

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (96, 160, 3), dtype=np.uint8)
K = np.array([[120.0, 0, 80], [0, 110, 50], [0, 0, 1]])
DEPTH = RNG.uniform(0.3, 2, (96, 160))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.from_pretrained("nano")


@pytest.mark.parametrize(
    "seen",
    [
        Observation(IMAGE, "Pick up the bowl"),
        Observation(IMAGE, "pick up the bowl", intrinsics=K),
        Observation(IMAGE, "pick up the bowl", intrinsics=K, depth=DEPTH),
        Observation(IMAGE[..., 0], "grey"),
        Observation(Image.fromarray(IMAGE).convert("RGBA"), "a picture"),
        Observation(
            RNG.integers(0, 255, (128, 128, 3), dtype=np.uint8), "the model's own size", intrinsics=K
        ),
    ],
)
def test_a_prepared_request_predicts_the_same(policy, seen):
    prepared = Preparation.of(policy)(ChunkRequest(seen)).observation
    assert prepared.image.shape == (128, 128, 3)
    raw, ours = (policy.processor.collate([policy.prepare(one)]) for one in (seen, prepared))
    for name in ("input_ids", "pixel_values", "depth"):
        one, other = getattr(raw, name), getattr(ours, name)
        assert (one is None) == (other is None)
        assert one is None or (one == other).all(), name
    assert np.allclose(raw.intrinsics, ours.intrinsics, rtol=1e-6)
    assert np.array_equal(policy.predict([seen])[0].tokens, policy.predict([prepared])[0].tokens)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": np.zeros((4, 4), np.float64)}, "uint8"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "shape"),
        ({"image": np.zeros((5000, 4, 3), np.uint8)}, "2048"),
        ({"image": np.zeros(7, np.uint8)}, "shape"),
        ({"instruction": ""}, "empty"),
        ({"instruction": "\n "}, "empty"),
        ({"instruction": None}, "empty"),
        ({"instruction": "go " * 500}, "1500 characters"),
        ({"intrinsics": np.eye(4)}, "3x3"),
        ({"intrinsics": -np.eye(3)}, "form"),
        ({"depth": np.full((96, 160), np.nan)}, "NaN"),
        ({"depth": np.full((96, 160, 1), 1.0)}, r"\(H, W\)"),
        ({"depth": np.full((96, 5000), 1.0)}, "2048"),
    ],
)
def test_bad_observations(policy, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        Preparation.of(policy)(ChunkRequest(replace(Observation(IMAGE, "x"), **changes)))


def test_committed_tokens_are_of_their_kind(policy):
    prepare = Preparation.of(policy)
    (chunk,) = policy.predict([Observation(IMAGE, "x")])
    for steps in (1, 3):
        kept = prepare(ChunkRequest(Observation(IMAGE, "x"), committed=chunk.tokens[:steps])).committed
        assert np.array_equal(kept, chunk.tokens[:steps])
    assert prepare(ChunkRequest(Observation(IMAGE, "x"), committed=np.zeros((0, 3), int))).committed is None
    for bad in (
        chunk.tokens[:, ::-1],
        chunk.tokens - 10**6,
        chunk.tokens.astype(float),
        np.tile(chunk.tokens, (2, 1)),
    ):
        with pytest.raises(InputError, match="committed"):
            prepare(ChunkRequest(Observation(IMAGE, "x"), committed=bad))


def test_a_real_policy_in_the_engine_says_what_it_says_alone(policy):
    """Batches of several clients, with and without depth, drafts and committed steps."""
    service = service_for(policy)
    try:
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
    finally:
        assert service.engine.drain(30)
