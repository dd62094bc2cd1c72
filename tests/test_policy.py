"""The policy: what enters and leaves it, what speeds it up, and that an episode's state is its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spatialvla import Observation, Policy, Processor, SpatialVLA
from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import CheckpointError, InputError
from spatialvla.execution import Execution, Executor
from spatialvla.model.decoding.chunk import decode
from spatialvla.policy import MOST_DRAFTED
from spatialvla_client.asynchronous import AsynchronousLoop

CHECKPOINT = Path(__file__).parent / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.from_pretrained(CHECKPOINT, dataset=DATASET)


def test_act_gives_a_chunk_in_dataset_units(policy):
    result = policy.act(Observation(IMAGE, "Stop"))
    assert result.actions.shape == (2, 7)
    assert result.tokens.shape == (2, 3)
    statistics = policy.processor.statistics[DATASET]
    assert (result.actions >= statistics.q01 - 1e-9).all()
    assert (result.actions <= statistics.q99 + 1e-9).all()
    assert np.array_equal(policy.act(Observation(IMAGE, "stop")).actions, result.actions), "lower-cased"


def test_a_batch_equals_its_rows(policy):
    observations = [
        Observation(IMAGE, "open the drawer", np.array([[80.0, 0, 32], [0, 80, 24], [0, 0, 1]])),
        Observation(IMAGE[:, ::-1].copy(), "put the red block on the plate"),
    ]
    together = policy.predict(observations)
    for observation, expected in zip(observations, together, strict=True):
        assert np.array_equal(policy.predict([observation])[0].actions, expected.actions)


def test_the_sensors_depth_replaces_the_estimate(policy):
    near, far = (Observation(IMAGE, "stop", depth=np.full((48, 64), meters)) for meters in (0.3, 5.0))
    batch = policy.processor([IMAGE] * 2, ["stop"] * 2, DATASET, depth=[near.depth, far.depth])
    features = policy.model.encode_images(batch)
    assert not np.allclose(features[0].detach(), features[1].detach())
    assert policy.predict([near, far])[0].actions.shape == (2, 7)
    estimated = Observation(IMAGE, "stop")
    for mixed, alone in zip(policy.predict([near, estimated]), (near, estimated), strict=True):
        np.testing.assert_array_equal(mixed.tokens, policy.predict([alone])[0].tokens)


def test_the_tokens_are_of_the_actions_beside_them(policy):
    late = Policy(
        policy.model, policy.processor, dataset=DATASET, execution=Execution("async", latency_steps=1)
    )
    for observation in OBSERVATIONS:
        executed = late.act(observation)
        decoded = policy.processor.actions(executed.tokens[None], DATASET)[0]
        np.testing.assert_allclose(executed.actions, decoded)


def test_policy_state_belongs_to_one_episode():
    policy = Policy.from_pretrained(CHECKPOINT, dataset=DATASET, execution=Execution("ensemble"))
    first = policy.act(Observation(IMAGE, "stop"))
    assert first.actions.shape == (1, 7)
    policy.act(Observation(IMAGE[::-1].copy(), "open the drawer"))
    policy.reset()
    assert np.array_equal(policy.act(Observation(IMAGE, "stop")).actions, first.actions)


def test_mismatches_are_refused_when_loading():
    model, processor = SpatialVLA.from_pretrained(CHECKPOINT), Processor.from_pretrained(CHECKPOINT)
    # The same number of tokens, split otherwise between translation and rotation.
    swapped = ActionGrid.uniform(Bins(theta=4, phi=4, r=4, roll=4, pitch=8, yaw=4))
    with pytest.raises(CheckpointError, match="do not belong together"):
        Policy(model, replace(processor, grid=swapped), dataset=DATASET)
    with pytest.raises(CheckpointError, match="2 steps, the processor's 4"):
        Policy(model, replace(processor, action_chunk_size=4), dataset=DATASET)


@pytest.mark.parametrize(
    "observation",
    [{}, {"image": IMAGE, "instruction": "stop"}, IMAGE, None, "stop"],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_observation_is_one_sentence(policy, observation):
    with pytest.raises(
        InputError, match=r"takes an Observation\(image, instruction, intrinsics, depth, extrinsics\), not a"
    ):
        policy.act(observation)


def test_one_observation_is_no_list(policy):
    with pytest.raises(InputError, match="Pass observations as a list"):
        policy.predict(Observation(IMAGE, "stop"))
    with pytest.raises(InputError, match="The list of observations is empty"):
        policy.predict([])


def test_weights_are_loaded_in_a_dtype_by_its_name():
    loaded = Policy.from_pretrained(CHECKPOINT, dataset=DATASET, dtype="bfloat16", device=torch.device("cpu"))
    assert next(loaded.model.parameters()).dtype == torch.bfloat16
    with pytest.raises(InputError, match="no dtype of weights called 'bfloat17'"):
        Policy.from_pretrained(CHECKPOINT, dataset=DATASET, dtype="bfloat17")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr("spatialvla.model.spatialvla.load", None)
    with pytest.raises(InputError, match="PyTorch sees no GPU cuda here"):
        Policy.from_pretrained(CHECKPOINT, dataset=DATASET, device="cuda")


def test_bad_options():
    with pytest.raises(InputError, match="Name the dataset"):
        Policy.from_pretrained(CHECKPOINT)
    with pytest.raises(InputError, match="bridge_orig"):
        Policy.from_pretrained(CHECKPOINT, dataset="bridge")
    for field in ("{instruction.__class__}", "{x}", "{instruction!r:>9999}", "{"):
        with pytest.raises(InputError, match=r"has other braces than \{instruction\}'s"):
            Policy.from_pretrained(CHECKPOINT, dataset=DATASET, prompt=f"{{instruction}} {field}")
    with pytest.raises(InputError, match=r"lacks \{instruction\}"):
        Policy.from_pretrained(CHECKPOINT, dataset=DATASET, prompt="go")
    with pytest.raises(InputError, match="depth_every at least 1"):
        Policy.from_pretrained(CHECKPOINT, dataset=DATASET, depth_every=0)


OBSERVATIONS = [
    Observation(IMAGE, "open the drawer"),
    Observation(IMAGE[:, ::-1].copy(), "put the red block on the plate"),
    Observation(IMAGE[::-1].copy(), "stop"),
]


def test_chunks_begin_with_what_is_committed(policy):
    plain = policy.predict(OBSERVATIONS)
    other = plain[1].tokens[:1]
    assert not np.array_equal(other, plain[0].tokens[:1])
    first, second, third = policy.predict(OBSERVATIONS, committed=[other, None, plain[2].tokens[:1]])
    assert np.array_equal(first.tokens[:1], other)
    assert np.array_equal(second.tokens, plain[1].tokens)
    assert np.array_equal(third.tokens, plain[2].tokens), "what it would have said anyway"


def test_prepared_observations_take_the_steps_under_way_too(policy):
    driven = Policy(
        policy.model,
        policy.processor,
        dataset=DATASET,
        execution=Execution("async", latency_steps=1, commit=True),
    )
    plain, prepared = driven.new_executor(), driven.new_executor()
    for observation in OBSERVATIONS:
        (one,) = driven.decide([observation], [plain])
        (other,) = driven.decide([driven.prepare(observation)], [prepared])
        assert np.array_equal(one.tokens, other.tokens)
        if plain.committed() is not None:
            assert np.array_equal(other.tokens[:1], plain.committed())
        plain(one)
        prepared(other)
    assert plain.committed() is not None


def test_steps_under_way_are_given_once(policy):
    first, second = (chunk.tokens[:1] for chunk in policy.predict(OBSERVATIONS[:2]))
    row = policy.prepare(OBSERVATIONS[2])
    (chunk,) = policy.predict([row], committed=[first])
    assert np.array_equal(chunk.tokens[:1], first)
    own = policy.prepare(OBSERVATIONS[2], first)
    for committed in ([first], [None], None):
        assert np.array_equal(policy.predict([own], committed=committed)[0].tokens, chunk.tokens)
    with pytest.raises(InputError, match="other steps under way than are given"):
        policy.predict([own], committed=[second])
    with pytest.raises(InputError, match="2 steps of 3"):
        policy.predict([row], committed=[np.zeros((3, 3), int)])
    driven = Executor(Execution("async", latency_steps=1, commit=True))
    driven(policy.predict(OBSERVATIONS[1:2])[0])
    assert np.array_equal(policy.decide([own], [driven])[0].tokens[:1], first), "the row's own"


def test_prompts_are_padded_as_the_model_likes_it(policy, monkeypatch):
    lengths = []

    def recorded(passes, batch, **options):
        lengths.append(batch.input_ids.shape[1] - policy.processor.image_token_num)
        return decode(passes, batch, **options)

    monkeypatch.setattr("spatialvla.policy.decode", recorded)
    plain = policy.predict(OBSERVATIONS[:1])
    monkeypatch.setattr(policy.model.passes, "prompt_multiple", 16)
    padded = policy.predict(OBSERVATIONS[:1])
    assert lengths[0] % 16
    assert lengths[1] == -(-lengths[0] // 16) * 16
    assert np.array_equal(plain[0].tokens, padded[0].tokens)


def test_drafts_change_nothing_but_the_passes(policy, monkeypatch):
    decoded = []

    def recorded(*args, **options):
        decoded.append(decode(*args, **options))
        return decoded[-1]

    monkeypatch.setattr("spatialvla.policy.decode", recorded)
    plain = policy.predict(OBSERVATIONS)
    right = [chunk.tokens for chunk in plain]
    for drafts in (right, [right[1], None, right[0][:1]], [None] * 3):
        for chunk, expected in zip(policy.predict(OBSERVATIONS, drafts=drafts), plain, strict=True):
            assert np.array_equal(chunk.tokens, expected.tokens)
    assert decoded[0].passes == 6
    assert decoded[1].passes < 6
    assert decoded[1].accepted.tolist() == [6, 6, 6]


def test_speculation_is_off_where_it_is_told_to_be(monkeypatch):
    for options, drafted in (({}, True), ({"speculate": False}, False), ({"temperature": 1.0}, False)):
        policy = Policy.from_pretrained(CHECKPOINT, dataset=DATASET, **options)
        seen = []

        def recorded(*args, decode=decode, seen=seen, **options):
            seen.append(options["draft_ids"] is not None)
            return decode(*args, **options)

        monkeypatch.setattr("spatialvla.policy.decode", recorded)
        policy.act(OBSERVATIONS[0])
        policy.act(OBSERVATIONS[0])
        assert seen == [drafted] * 2


def test_large_batches_on_a_cpu_are_decoded_token_by_token(policy, monkeypatch):
    passes = []

    def recorded(*args, **options):
        decoded = decode(*args, **options)
        passes.append(decoded.passes)
        return decoded

    (chunk,) = policy.predict(OBSERVATIONS[:1])
    monkeypatch.setattr("spatialvla.policy.decode", recorded)
    for rows in (MOST_DRAFTED, MOST_DRAFTED + 1):
        policy.predict([OBSERVATIONS[0]] * rows, drafts=[chunk.tokens] * rows)
    assert passes == [1, 6]


@pytest.mark.wrong_arrays
def test_tokens_that_cannot_be(policy):
    right = policy.predict(OBSERVATIONS[:1])[0].tokens
    for rows, message in (
        ([right[:, ::-1]], "where a translation token belongs"),
        ([right[:, :2]], "2 steps of 3"),
        ([right + 0.5], "whole numbers"),
        ([right[0]], "2 steps of 3"),
        ([np.repeat(right, 2, axis=0)], "2 steps of 3"),
        ([right, right], "1 observations and tokens for 2"),
    ):
        for name in ("committed", "drafts"):
            with pytest.raises(InputError, match=message):
                policy.predict(OBSERVATIONS[:1], **{name: rows})


def test_episodes_of_one_policy_keep_their_own_depth():
    policy = Policy.from_pretrained(CHECKPOINT, dataset=DATASET, depth_every=3)
    estimate, sizes = policy.model.depth_source, []

    def counted(pixels):
        sizes.append(len(pixels))
        return estimate(pixels)

    policy.model.depth_source = counted
    early, late = policy.new_executor(), policy.new_executor()
    first = OBSERVATIONS[0]
    for observation in OBSERVATIONS[:2]:
        policy.decide([observation], [early])
    assert sizes == [1]
    policy.decide([first, first], [early, late])
    assert sizes == [1, 1], "the early one's third decision, the late one's first"
    policy.decide([first, first], [early, late])
    assert sizes == [1, 1, 1]
    assert early.depth
    late.reset()
    policy.decide([first, first], [early, late])
    assert sizes == [1, 1, 1, 1]
    with_sensor = Observation(IMAGE, "stop", depth=np.full((48, 64), 0.3))
    policy.decide([with_sensor], [early])
    assert sizes == [1, 1, 1, 1]


def test_a_kept_depth_map_is_used(policy, monkeypatch):
    kept = Policy(policy.model, policy.processor, dataset=DATASET, depth_every=2)
    seen = []

    def source(pixels):
        seen.append(1.0 + len(seen))
        return torch.full((len(pixels), *pixels.shape[2:]), seen[-1])

    depths = []
    policy.model.depth_source = source

    def recorded(passes, batch, **options):
        depths.append(batch.depth)
        return decode(passes, batch, **options)

    monkeypatch.setattr("spatialvla.policy.decode", recorded)
    try:
        for _ in range(3):
            kept.act(OBSERVATIONS[0])
    finally:
        policy.model.depth_source = None
    assert [float(depth.mean()) for depth in depths] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("measured_beside", [False, True])
def test_a_kept_depth_map_ages_while_a_sensor_measures(monkeypatch, measured_beside):
    """Whether alone, or in a batch with an episode that has no sensor."""
    kept = Policy.from_pretrained(CHECKPOINT, dataset=DATASET, depth_every=3)
    depths, estimated = [], []

    def source(pixels):
        estimated.append(len(pixels))
        return torch.full((len(pixels), *pixels.shape[2:]), 1.0 + len(estimated))

    def recorded(passes, batch, **options):
        depths.append(batch.depth.flatten(1).mean(dim=1).tolist())
        return decode(passes, batch, **options)

    kept.model.depth_source = source
    monkeypatch.setattr("spatialvla.policy.decode", recorded)
    blind = OBSERVATIONS[0]
    sensor = Observation(IMAGE, "stop", depth=np.full((48, 64), 0.5))
    drops_out, other = kept.new_executor(), kept.new_executor()
    for observation in (blind, sensor, blind, sensor, blind):
        both = measured_beside and observation is sensor
        kept.decide(
            [observation, blind] if both else [observation], [drops_out, other] if both else [drops_out]
        )
    used = [first for first, *_ in depths]
    # The third decision is the map's last; the fifth needs a new one.
    assert used[:4] == [2.0, 0.5, 2.0, 0.5]
    assert used[4] == 1.0 + len(estimated) > 2.0
    assert estimated == ([1, 1, 1] if measured_beside else [1, 1]), "none is estimated where it is measured"


def test_depth_is_kept_for_whoever_wants_to_see_it_and_changes_nothing(policy):
    unseen, seen = policy.new_executor(), policy.new_executor()
    seen.keeps_depth = True
    for observation in OBSERVATIONS[:2]:
        (hidden,), (shown,) = policy.decide([observation], [unseen]), policy.decide([observation], [seen])
        assert np.array_equal(hidden.actions, shown.actions)
        np.testing.assert_allclose(seen.depth[0], policy.depth([observation])[0], rtol=1e-5)
    assert not unseen.depth


def test_a_policy_in_an_asynchronous_loop(policy):
    policy.reset()
    executed = []
    with AsynchronousLoop(policy.infer, control_hz=1_000, most_committed=1, commit=True) as loop:
        loop.run(lambda: OBSERVATIONS[len(executed) % 3], executed.append, steps=12)
        assert loop.statistics.requests >= 2
    assert len(executed) == 12
    assert np.array_equal(executed[0], policy.predict(OBSERVATIONS[:1])[0].actions[0])
