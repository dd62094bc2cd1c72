"""Committed steps in training: what is given, what is learned, and that nothing else changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_policy import BINS, tiny, write_dataset
from torch.nn.functional import cross_entropy

from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.batch import GIVEN, IGNORED, Batch
from spatialvla.errors import InputError
from spatialvla.model.presets import PRESETS
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.feed.given_tokens import jittered, with_committed_steps
from spatialvla.training.loop import train

GRID = ActionGrid.uniform(Bins(theta=4, phi=6, r=2, roll=3, pitch=3, yaw=3))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint with its processor, of chunks of two steps."""
    PRESETS["tiny"] = tiny
    folder = tmp_path_factory.mktemp("start")
    config = a_config(write_dataset(folder / "squares"), folder / "run", steps=1)
    return train(config, device="cpu").model


def a_config(dataset, out, **changes):
    settings = {"in_memory": True, "cache": out / "cache", "preset": "tiny", "bins": BINS}
    settings |= {"depth": "sensor", "batch_size": 8}
    return TrainConfig(datasets=(DatasetConfig(str(dataset)),), out=out, **(settings | changes))


@pytest.fixture
def parts(start, dataset, tmp_path):
    """A model in float32, its processor, and a training batch of 32 rows."""
    model, processor = SpatialVLA.from_pretrained(start), Processor.from_pretrained(start)
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (32, 32, 32, 3), dtype=np.uint8))
    key = next(iter(processor.statistics))
    actions = processor.statistics[key].denormalize(rng.uniform(-1, 1, (32, 2, 7)))
    prompts = ["push the square" if row % 2 else "stop" for row in range(32)]
    batch = processor(images, prompts, key, actions=actions, depth=[np.ones((32, 32), np.float32)] * 32)
    return model, processor, batch, a_config(dataset, tmp_path / "run")


def committed(parts, **changes) -> Batch:
    _, processor, batch, config = parts
    return with_committed_steps(batch, replace(config, **changes), processor, np.random.default_rng(1))


def test_off_by_default(parts):
    assert committed(parts) is parts[2]


def test_first_steps_of_a_share_of_the_samples_are_given(parts):
    batch = parts[2]
    for share, rows in ((0.0, range(1)), (0.5, range(8, 25)), (1.0, range(32, 33))):
        changed = committed(parts, committed_steps=1, committed_share=share)
        given = changed.labels == GIVEN
        counts = given.sum(dim=1)
        assert set(counts.tolist()) <= {0, 3}
        assert int((counts > 0).sum()) in rows
        assert torch.equal(changed.input_ids, batch.input_ids), "the model goes on from the true tokens"
        assert torch.equal(changed.labels[~given], batch.labels[~given])
        first = (batch.labels != IGNORED).int().argmax(dim=1)
        for row in counts.nonzero()[:, 0]:
            assert given[row].nonzero()[:, 0].tolist() == [first[row] + place for place in range(3)]


def test_given_tokens_are_the_true_ones_where_others_were_mixed_in(parts):
    _, processor, batch, config = parts
    is_action = batch.labels >= processor.action_token_begin_idx
    others = batch.input_ids[is_action].view(32, -1).roll(1, dims=0)
    mixed = replace(batch, input_ids=batch.input_ids.masked_scatter(is_action, others))
    changed = with_committed_steps(
        mixed,
        replace(config, committed_steps=1, committed_share=1.0),
        processor,
        np.random.default_rng(1),
    )
    given = changed.labels == GIVEN
    assert torch.equal(changed.input_ids[given], batch.labels[given])
    assert torch.equal(changed.input_ids[~given], mixed.input_ids[~given])


def test_steps_that_were_not_planned_stay_without_a_loss(parts):
    batch = parts[2]
    behind = batch.labels.clone()
    second = (batch.labels != IGNORED).int().argmax(dim=1)[::2, None] + 3 + torch.arange(3)
    behind[::2] = behind[::2].scatter(1, second, GIVEN)
    changed = committed((*parts[:2], replace(batch, labels=behind), parts[3]), committed_steps=1)
    given = (changed.labels == GIVEN).sum(dim=1)
    assert torch.equal(changed.input_ids, batch.input_ids)
    assert set(given[::2].tolist()) == {3, 6}
    assert set(given[1::2].tolist()) == {0, 3}
    kept = changed.labels >= 0
    assert torch.equal(changed.labels[kept], batch.labels[kept])


def test_only_the_loss_of_given_tokens_goes_away(parts):
    model, _, batch, _ = parts
    changed = committed(parts, committed_steps=1)
    with torch.no_grad():
        plain, without = model.training_loss(batch), model.training_loss(changed)
        whole = model(changed)
    kept = (changed.labels >= 0)[batch.labels >= 0]
    assert 0 < int((~kept).sum()) < len(kept)
    # Given tokens stay causal: the prompt does not see them, or all that follows would be another.
    torch.testing.assert_close(without.logits, plain.logits[kept])
    torch.testing.assert_close(without.prompt_hidden, plain.prompt_hidden)
    assert torch.equal(without.labels, plain.labels[kept])
    assert torch.equal(without.rows, plain.rows[kept])
    losses = cross_entropy(plain.logits, plain.labels, reduction="none")
    torch.testing.assert_close(without.loss, losses[kept].mean())
    torch.testing.assert_close(whole.loss, without.loss)


@given(st.integers(0, 2**32), st.floats(0, 1))
def test_jitter_moves_to_neighboring_cells_only(seed, probability):
    rng = np.random.default_rng(seed)
    numbers = np.stack([rng.integers(*ends, (20, 3)) for ends in GRID.ranges], axis=-1)
    moved = jittered(numbers, GRID, probability, rng)
    before, after = GRID.bin_indices(numbers), GRID.bin_indices(moved)
    for name, size in vars(GRID.bins).items():
        apart = np.abs(before[name] - after[name])
        assert (np.minimum(apart, size - apart if name == "phi" else apart) <= 1).all()
    assert np.array_equal(before["gripper"], after["gripper"])
    if probability == 0:
        assert np.array_equal(moved, numbers)


def test_jitter_reaches_every_neighbor_around_the_azimuth():
    numbers = np.repeat(GRID.encode(np.array([[-1.0, -1e-6, 0.1, 0, 0, 0, 1]])), 500, axis=0)
    assert set(GRID.bin_indices(numbers)["phi"]) == {0}
    moved = GRID.bin_indices(jittered(numbers, GRID, 0.5, np.random.default_rng(0)))
    assert set(moved["phi"]) == {0, 1, 5}
    assert set(moved["roll"]) == {0, 1, 2}


def test_a_run_with_committed_steps(dataset, tmp_path):
    config = a_config(
        dataset,
        tmp_path / "run",
        steps=4,
        log_every=1,
        accumulation=2,
        committed_steps=1,
        committed_share=0.9,
        committed_jitter=0.2,
    )
    result = train(config, device="cpu")
    assert result.finished
    recorded = json.loads((config.out / "config.json").read_text())
    assert (recorded["committed_steps"], recorded["committed_jitter"]) == (1, 0.2)
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "train":
            assert np.isfinite(line["l1/translation"])
            assert line["l1/translation"] > 0, "given steps do not count as right"


def test_unusable_options(parts):
    config = parts[3]
    with pytest.raises(InputError, match="less than the 2 steps"):
        committed(parts, committed_steps=2)
    for changes in ({"committed_steps": -1}, {"committed_share": 1.1}, {"committed_jitter": -0.1}):
        with pytest.raises(InputError, match=next(iter(changes))):
            replace(config, **changes)
