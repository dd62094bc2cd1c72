"""The policy: what is executed of a chunk, and that an episode's state is its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spatialvla import ActionChunk, Observation, Policy, Processor, SpatialVLA
from spatialvla.actions.grids import ActionGrid, Bins
from spatialvla.errors import CheckpointError, InputError
from spatialvla.policy import Execution, Executor

CHECKPOINT = Path(__file__).parent / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.from_pretrained(CHECKPOINT, dataset=DATASET)


def chunk(value: float, steps: int = 4) -> ActionChunk:
    actions = np.full((steps, 7), value) + np.arange(steps)[:, None]
    return ActionChunk(actions, np.zeros((steps, 3), int))


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
    near, far = (Observation(IMAGE, "stop", depth=np.full((48, 64), metres)) for metres in (0.3, 5.0))
    batch = policy.processor([IMAGE] * 2, ["stop"] * 2, DATASET, depth=[near.depth, far.depth])
    features = policy.model.encode_images(batch)
    assert not np.allclose(features[0].detach(), features[1].detach())
    assert policy.predict([near, far])[0].actions.shape == (2, 7)
    with pytest.raises(InputError, match="depth"):
        policy.predict([near, Observation(IMAGE, "stop")])


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


def test_ensemble_forgets_chunks_that_say_nothing_of_the_present():
    executor = Executor(Execution("ensemble", alpha=0.0))
    for _ in range(10):
        executor(chunk(100.0))
    for _ in range(4):
        last = executor(chunk(0.0))
    assert last[0, 0] == pytest.approx(np.mean([0, 1, 2, 3]))


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


def test_bad_options():
    with pytest.raises(InputError, match="name a dataset"):
        Policy.from_pretrained(CHECKPOINT)
    with pytest.raises(InputError, match="bridge_orig"):
        Policy.from_pretrained(CHECKPOINT, dataset="bridge")
    with pytest.raises(InputError, match=r"lacks \{instruction\}"):
        Policy.from_pretrained(CHECKPOINT, dataset=DATASET, prompt="go")
    with pytest.raises(InputError, match="execution mode"):
        Execution("closed")
    with pytest.raises(InputError, match="at least 1"):
        Execution("receding", steps=0)
