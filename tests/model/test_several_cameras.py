"""Several cameras and the arm's state: what is missing changes nothing, and what is there is seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spatialvla import CameraImage, Observation, Optimization, Policy, Processor, SpatialVLA
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.batch import IGNORED
from spatialvla.errors import CheckpointError, InputError
from spatialvla.execution import Execution
from spatialvla.geometry.camera import View
from spatialvla.model.decoding.chunk import decode
from spatialvla.model.fast.optimize import warm_up
from spatialvla.model.growth import grow

GOLDENS = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
RNG = np.random.default_rng(0)
IMAGE, WRIST, SIDE = (RNG.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(3))
K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
STATE = np.array([0.1, -0.3, 0.7])
NAMES = ("x", "y", "z")
ACTIONS = RNG.uniform(-0.01, 0.01, (2, 2, 7))


def grown(**changes) -> Policy:
    """The reference checkpoint with the cameras wrist and side and a state of three numbers added."""
    torch.manual_seed(0)
    model, processor = SpatialVLA.from_pretrained(GOLDENS), Processor.from_pretrained(GOLDENS)
    grow(model, ("wrist", "side"), 3)
    states = {DATASET: StateStatistics(np.full(3, -1.0), np.full(3, 1.0))}
    processor = replace(
        processor, camera_names=("image", "wrist", "side"), state_names=NAMES, state_statistics=states
    )
    return Policy(model, processor, dataset=DATASET, **changes)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return grown()


@pytest.fixture(scope="module")
def published() -> Policy:
    return Policy.from_pretrained(GOLDENS, dataset=DATASET)


def of(image, **more) -> CameraImage:
    return CameraImage(image, K, **more)


def seen(*names, state=None, text="stop") -> Observation:
    pictures = {"wrist": of(WRIST), "side": of(SIDE)}
    return Observation(IMAGE, text, images={name: pictures[name] for name in names}, state=state)


def logits(policy, rows, **more):
    """Of the positions behind the images and the state, one row after another."""
    batch = policy.processor.collate(rows, **more)
    with torch.no_grad():
        found = policy.model(batch).logits
    words = batch.attention_mask & (batch.input_ids != policy.model.config.image_token_index)
    return [row[kept] for row, kept in zip(found, words, strict=True)]


def test_a_grown_model_without_its_new_parts_is_the_old_one(policy, published):
    """Alone, so that they take no slots, and beside a row that has them, so that they are hidden."""
    (expected,) = logits(published, [published.prepare(seen())])
    (alone,) = logits(policy, [policy.prepare(seen())])
    assert torch.equal(alone, expected)
    beside, full = logits(
        policy, [policy.prepare(seen()), policy.prepare(seen("wrist", "side", state=STATE))]
    )
    torch.testing.assert_close(beside, expected, atol=1e-5, rtol=0)
    assert (full - expected).abs().max() > 1e-3
    np.testing.assert_array_equal(policy.predict([seen()])[0].tokens, published.predict([seen()])[0].tokens)


def test_each_new_part_is_seen(policy):
    rows = [
        seen(),
        seen("wrist"),
        seen("side"),
        seen(state=STATE),
        seen(state=-STATE),
        seen("wrist", state=STATE),
    ]
    found = [row[-1] for row in logits(policy, [policy.prepare(row) for row in rows])]
    for first in range(len(rows)):
        for second in range(first):
            assert (found[first] - found[second]).abs().max() > 1e-4, (first, second)


def test_rows_of_a_batch_are_as_they_are_alone(policy):
    rows = [seen("side"), seen("wrist", state=STATE, text="put the red block on the plate"), seen()]
    together = policy.predict(rows)
    for row, chunk in zip(rows, together, strict=True):
        np.testing.assert_array_equal(policy.predict([row])[0].tokens, chunk.tokens)
    prepared = [policy.prepare(row) for row in rows]
    for row, expected in zip(prepared, logits(policy, prepared), strict=True):
        torch.testing.assert_close(logits(policy, [row])[0], expected, atol=1e-5, rtol=0)


def test_the_first_camera_may_be_missing_or_stand_among_the_others(policy):
    named = Observation(instruction="stop", images={"image": CameraImage(IMAGE), "wrist": of(WRIST)})
    (expected,) = policy.predict([seen("wrist")])
    np.testing.assert_array_equal(policy.predict([named])[0].tokens, expected.tokens)
    without = Observation(instruction="stop", images={"wrist": of(WRIST)})
    assert policy.predict([without])[0].actions.shape == (2, 7)
    both = [policy.prepare(named), policy.prepare(without)]
    with_first, hidden = logits(policy, both)
    torch.testing.assert_close(hidden, logits(policy, [policy.prepare(without)])[0], atol=1e-5, rtol=0)
    assert (with_first - hidden).abs().max() > 1e-4


def test_all_cameras_of_all_rows_go_through_the_towers_once(policy):
    sizes = []
    source = policy.model.depth_source
    policy.model.depth_source = lambda pixels: sizes.append(len(pixels)) or source(pixels)
    try:
        policy.predict([seen("wrist"), seen("side"), seen("wrist", "side")])
        policy.predict([seen("wrist"), seen()])
        policy.predict([seen("side", state=STATE)])
    finally:
        policy.model.depth_source = None
    assert sizes == [9, 4, 2]


def test_depth_is_measured_by_some_cameras_and_estimated_for_the_others(policy):
    meters = np.full((48, 64), 0.4, np.float32)
    measured = replace(seen("wrist"), images={"wrist": of(WRIST, depth=meters)})
    batch = policy.processor.collate([policy.prepare(measured), policy.prepare(seen("wrist"))])
    assert batch.depth_known.tolist() == [False, True, False, False]
    depth = policy.model.depth(batch)
    assert (depth[1] == 0.4).all()
    torch.testing.assert_close(depth[0], policy.model.depth_source(batch.pixel_values)[0])
    alone = policy.predict([measured])[0]
    np.testing.assert_array_equal(policy.predict([measured, seen("wrist")])[0].tokens, alone.tokens)


def test_kept_depth_is_of_the_cameras_that_are_there():
    policy = grown(depth_every=3)
    sizes = []
    source = policy.model.depth_source
    policy.model.depth_source = lambda pixels: sizes.append(len(pixels)) or source(pixels)
    executor = policy.new_executor()
    for names in (("wrist",), ("wrist",), (), (), ("wrist", "side")):
        policy.decide([seen(*names)], [executor])
    assert sizes == [2, 1, 3]


def test_a_policy_of_a_dataset_without_a_state_has_none(policy):
    """Such as one that got its state from another dataset's training."""
    old = Policy(policy.model, replace(policy.processor, state_statistics={}), dataset=DATASET)
    assert (old.state_names, policy.state_names) == ((), NAMES)
    with pytest.raises(InputError, match="no statistics of the states of tiny_robot"):
        old.act(seen(state=STATE))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": {"wrist": WRIST}}, "CameraImage.* where now is a ndarray"),
        ({"images": {"wrist": None}}, "leave out cameras that are missing"),
        ({"images": {1: of(WRIST)}}, "CameraImages by name"),
        ({"images": [of(WRIST)]}, "CameraImages by name, not a list"),
        ({"images": None}, "CameraImages by name, not a NoneType"),
        ({"image": None, "intrinsics": K, "images": {"wrist": of(WRIST)}}, "intrinsics of the first camera without"),
        ({"image": None, "mirrored": True, "images": {"wrist": of(WRIST)}}, "has mirrored of the first camera without"),
    ],
)  # fmt: skip
def test_observations_that_are_none(policy, parts, message):
    observation = seen()
    for name, value in parts.items():
        object.__setattr__(observation, name, value)  # what is checked in tests alone stays unchecked
    for use in (policy.prepare, policy.act):
        with pytest.raises(InputError, match=message):
            use(observation)


@pytest.mark.parametrize("beside", [(), ("wrist",)])
def test_kept_depth_is_never_that_of_another_camera(monkeypatch, beside):
    """Whether as many cameras as before are others, or a neighbor in the batch had the camera and this one had not."""
    policy, depths = grown(depth_every=9), []

    def recorded(passes, batch, **options):
        depths.append(batch.depth)
        return decode(passes, batch, **options)

    monkeypatch.setattr("spatialvla.policy.decode", recorded)
    executors = [policy.new_executor(), policy.new_executor()]
    policy.decide([seen(*beside), seen("wrist")], executors)
    policy.decide([seen("wrist"), seen("side")], executors)
    policy.decide([seen("wrist"), seen("wrist")], executors)
    fresh = policy.model.depth(policy.processor.collate([policy.prepare(seen("wrist", "side"))]))
    first, wrist, side = fresh
    torch.testing.assert_close(depths[1][[0, 1]], torch.stack([first, wrist]))
    torch.testing.assert_close(depths[1][[3, 5]], torch.stack([first, side]))
    torch.testing.assert_close(depths[2], torch.stack([first, wrist, first, wrist]))


def test_drafts_and_committed_steps_are_as_without_new_parts(policy):
    rows = [policy.prepare(seen("wrist", state=STATE)), policy.prepare(seen("side"))]
    batch = policy.processor.collate(rows)
    passes = policy.model.passes
    plain = decode(passes, batch)
    right = decode(passes, batch, draft_ids=plain.ids)
    assert torch.equal(right.ids, plain.ids)
    assert right.passes == 1
    rng = np.random.default_rng(3)
    guess = policy.processor.tokens(plain.ids)
    guess[:, 1] = rng.permutation(guess[:, 1])
    wrong = decode(passes, batch, draft_ids=policy.processor.token_ids(list(guess)))
    assert torch.equal(wrong.ids, plain.ids)
    committed = policy.processor.tokens(plain.ids)[0, :1]
    (chunk,) = policy.predict([policy.prepare(seen("wrist", state=STATE), committed)])
    np.testing.assert_array_equal(chunk.tokens, policy.processor.tokens(plain.ids)[0])


def test_an_episode_may_lose_and_regain_a_camera(policy):
    fast = grown(execution=Execution("receding", steps=1))
    slow = grown(execution=Execution("receding", steps=1), speculate=False)
    for names in (("wrist",), (), ("wrist", "side"), ("wrist", "side")):
        one, two = fast.act(seen(*names, state=STATE)), slow.act(seen(*names, state=STATE))
        np.testing.assert_array_equal(one.tokens, two.tokens)


@pytest.mark.parametrize("weights", [None, "int8"])
def test_an_optimized_model_says_the_same(policy, weights):
    fast, old = grown(), Policy.from_pretrained(GOLDENS, dataset=DATASET)
    for model in (fast.model, old.model):
        model.optimize(Optimization(weights=weights))
    np.testing.assert_array_equal(fast.predict([seen()])[0].tokens, old.predict([seen()])[0].tokens)
    rows = [seen("wrist", state=STATE), seen("side"), seen()]
    together = fast.predict(rows)
    for row, chunk in zip(rows, together, strict=True):
        np.testing.assert_array_equal(fast.predict([row])[0].tokens, chunk.tokens)
        if weights is None:
            np.testing.assert_array_equal(policy.predict([row])[0].tokens, chunk.tokens)


@pytest.mark.slow
def test_a_compiled_model_says_the_same(policy):
    fast = grown()
    fast.model.optimize(Optimization(compile=True, batch_sizes=(1,), text_tokens=(8,)))
    for row in (seen("wrist", "side", state=STATE), seen("wrist"), seen()):
        np.testing.assert_array_equal(fast.predict([row])[0].tokens, policy.predict([row])[0].tokens)


def test_the_passes_are_warmed_up_with_all_parts(policy):
    warm_up(policy.model.passes, 2, 3, drafts=True)


def test_labels_and_losses_of_a_row_do_not_depend_on_what_others_have(policy):
    def batch(views, states):
        views = [{name: View.of(picture, K) for name, picture in row.items()} for row in views]
        return policy.processor(
            [IMAGE] * len(views),
            ["stop"] * len(views),
            DATASET,
            other_views=views,
            states=states,
            actions=ACTIONS[: len(views)],
        )

    both = batch([{}, {"wrist": WRIST}], [None, STATE])
    assert ((both.labels != IGNORED) <= both.attention_mask).all()
    first = policy.model.training_loss(batch([{}], [None]))
    loss = policy.model.training_loss(both)
    torch.testing.assert_close(loss.logits[loss.rows == 0], first.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(loss.prompt_hidden[0], first.prompt_hidden[0], atol=1e-5, rtol=0)
    half = both[1:]
    torch.testing.assert_close(
        policy.model.training_loss(half).logits, loss.logits[loss.rows == 1], atol=1e-5, rtol=0
    )


def test_it_is_saved_and_loaded(policy, tmp_path):
    policy.model.save_pretrained(tmp_path)
    policy.processor.save_pretrained(tmp_path)
    again = Policy.from_pretrained(tmp_path, dataset=DATASET)
    assert (again.camera_names, again.state_names) == (("image", "wrist", "side"), NAMES)
    row = seen("wrist", state=STATE)
    np.testing.assert_array_equal(again.predict([row])[0].actions, policy.predict([row])[0].actions)
    with pytest.raises(
        CheckpointError, match="cameras image, wrist, side and 3 numbers of state, the processor"
    ):
        Policy(again.model, Processor.from_pretrained(GOLDENS), dataset=DATASET)


def test_states_are_normalized_by_their_quantiles(policy):
    statistics = StateStatistics.from_states(np.outer(np.linspace(0, 1, 101), [1.0, -4.0, 0.0]) + 2)
    np.testing.assert_allclose(statistics.q01, [2.01, -1.96, 2])
    np.testing.assert_allclose(statistics.normalize(np.array([2.5, -1.96, 7])), [0, -1, 0])
    np.testing.assert_array_equal(statistics.normalize(np.array([9.0, -9, 2])), [1, -1, 0])
    again = StateStatistics.from_json(statistics.to_json())
    np.testing.assert_array_equal(again.q99, statistics.q99)


@pytest.mark.parametrize(
    ("observation", "sentence"),
    [
        (seen(state=STATE[:2]), r"state has 3 numbers, got shape \(2,\)"),
        (seen(state=np.array([0, np.nan, 1])), "state contains NaN"),
        (Observation(IMAGE, "stop", images={"wrsit": of(WRIST)}), "no camera 'wrsit'.*wrist"),
        (Observation(IMAGE, "stop", images={"image": of(WRIST)}), "camera image is given twice"),
        (Observation(instruction="stop"), "has no image"),
        (Observation(IMAGE, "stop", images={"wrist": CameraImage(WRIST)}), "intrinsics of the camera wrist"),
        (
            Observation(IMAGE, "stop", images={"wrist": of(WRIST, depth=np.full((4, 4), 900.0))}),
            "Camera wrist: .*millimeters",
        ),
        (
            Observation(IMAGE, "stop", images={"wrist": of(WRIST, extrinsics=np.ones((4, 4)))}),
            "Camera wrist: .*",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(policy, observation, sentence):
    with pytest.raises(InputError, match=sentence):
        policy.prepare(observation)


def test_a_published_model_takes_no_state_and_one_camera(published):
    with pytest.raises(InputError, match="takes no state"):
        published.prepare(seen(state=STATE))
    with pytest.raises(InputError, match="no camera 'wrist'"):
        published.prepare(seen("wrist"))


def test_growing_twice_or_otherwise_is_refused():
    model = grown().model
    with pytest.raises(InputError, match="has a camera wrist already"):
        grow(model, ("wrist",))
    with pytest.raises(InputError, match="has 3 numbers already and cannot get 4"):
        grow(model, state_size=4)
    grow(model, ("top",), 3)
    assert model.config.cameras == ("image", "wrist", "side", "top")
