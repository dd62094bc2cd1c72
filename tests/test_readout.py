"""Readout: the mean of a step over all cells, by definition, and where a checkpoint or a user asks for it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spatialvla import InputError, Observation, Policy
from spatialvla.cli.main import main
from spatialvla.errors import CheckpointError
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.evaluation.results.provenance import settings_of
from spatialvla.processor import Processor
from spatialvla.readout import CellMiddles, in_units_of, mean_actions

CHECKPOINT = Path(__file__).parent / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
IMAGES = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), dtype=np.uint8)
SEEN = [Observation(IMAGES[0], "stop"), Observation(IMAGES[1], "put the red block on the plate")]
STILL_YAW = np.array([1, 1, 1, 1, 1, 0, 1])


def loaded(folder=CHECKPOINT, **options):
    return Policy.from_pretrained(folder, dataset=DATASET, **options)


def test_the_mean_is_over_the_probabilities_and_the_tokens_stay():
    likeliest, mean = loaded(), loaded(readout="mean", uncertainty=True)
    processor = mean.processor
    middles = CellMiddles.of(processor, DATASET)
    for one, other in zip(likeliest.predict(SEEN), mean.predict(SEEN), strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.actions[:, 6], other.actions[:, 6])
        moves, turns, _ = (p.astype(np.float64) for p in other.uncertainty.probabilities)
        for step, action in enumerate(other.actions):
            np.testing.assert_allclose(action[:3], moves[step] @ middles.translation, atol=1e-6)
            np.testing.assert_allclose(action[3:6], turns[step] @ middles.rotation, atol=1e-6)
        assert not np.allclose(one.actions[:, :6], other.actions[:, :6])
    assert all(chunk.uncertainty is None for chunk in loaded(readout="mean").predict(SEEN))


def test_a_cell_decodes_to_its_middle_where_it_is_certain_and_opposite_ones_cancel():
    processor = Processor.from_pretrained(CHECKPOINT)
    middles = CellMiddles.of(processor, DATASET)
    ranges = processor.grid.ranges
    sizes = [end - begin for begin, end in ranges]
    tokens = np.array([[[ranges[0][0] + 3, ranges[1][0] + 5, ranges[2][0]]]])
    actions = processor.actions(tokens, DATASET)
    certain = tuple(
        F.one_hot(torch.tensor([[int(token) - begin]]), size).float()
        for token, (begin, _), size in zip(tokens[0, 0], ranges, sizes, strict=True)
    )
    np.testing.assert_allclose(mean_actions(actions, certain, middles), actions, atol=1e-12)
    np.testing.assert_allclose(middles.translation[3], actions[0, 0, :3])
    np.testing.assert_allclose(middles.rotation[5], actions[0, 0, 3:6])
    torn = torch.zeros(1, 1, sizes[0])
    torn[0, 0, [3, 90]] = 0.5
    found = mean_actions(actions, (torn, *certain[1:]), middles)
    np.testing.assert_allclose(found[0, 0, :3], (middles.translation[3] + middles.translation[90]) / 2)
    np.testing.assert_array_equal(found[..., 3:], actions[..., 3:])


def test_a_checkpoint_says_its_readout_and_a_user_may_say_another(tmp_path):
    out = tmp_path / "out"
    main(["export", "--policy", str(CHECKPOINT), "--readout", "mean", "--out", str(out)])
    assert json.loads((out / "processor_config.json").read_text())["action_readout"] == "mean"
    assert loaded(out).readout == "mean"
    assert loaded(out, readout="likeliest").readout == "likeliest"
    assert loaded().readout == "likeliest"
    # Written once more it stays; taken back it is gone, as published.
    main(["export", "--policy", str(out), "--out", str(tmp_path / "again")])
    assert loaded(tmp_path / "again").readout == "mean"
    main(["export", "--policy", str(out), "--readout", "likeliest", "--out", str(tmp_path / "back")])
    assert "action_readout" not in json.loads((tmp_path / "back" / "processor_config.json").read_text())


def test_other_rows_of_a_batch_change_no_action_of_a_chunk_that_is_committed_as_a_whole():
    policy = loaded(readout="mean", uncertainty=True)
    expected = policy.predict(SEEN)[0]
    (alone,) = policy.predict(SEEN[:1], committed=[expected.tokens])
    beside, _ = policy.predict(SEEN, committed=[expected.tokens, None])
    for chunk in (alone, beside):
        np.testing.assert_allclose(chunk.actions, expected.actions, atol=1e-5)
        np.testing.assert_allclose(chunk.uncertainty.entropy, expected.uncertainty.entropy, atol=1e-4)


def test_actions_in_the_units_of_another_dataset():
    """Of a rotation that does not move in its own, the likeliest token tells what the policy said."""
    policy = loaded(readout="mean")
    known = policy.processor.statistics[DATASET]
    wide = replace(known, q01=2 * known.q01, q99=2 * known.q99, stored=None)
    still = replace(known, q01=known.q01 * STILL_YAW, q99=known.q99 * STILL_YAW, stored=None)
    processor = replace(policy.processor, statistics={DATASET: known, "wide": wide, "still": still})
    (chunk,) = policy.predict(SEEN[:1])
    expected = 2 * chunk.actions
    np.testing.assert_allclose(in_units_of("wide", chunk, DATASET, processor), expected)
    expected[:, 5] = processor.actions(chunk.tokens[None], "wide")[0, :, 5]
    chunk = replace(chunk, actions=chunk.actions * STILL_YAW)
    np.testing.assert_allclose(in_units_of("wide", chunk, "still", processor), expected)


def test_results_say_the_readout():
    assert settings_of(loaded(readout="mean")).readout == "mean"
    assert str(PolicySettings(readout="mean")) == "whole chunks; readout mean"


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(InputError, match="set temperature to 0 or readout to likeliest"):
        loaded(readout="mean", temperature=1.0)
    for wrong in ("median", "", False):
        with pytest.raises(InputError, match=f"readout must be likeliest or mean, got {wrong!r}"):
            loaded(readout=wrong)
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "other"))
    config = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(config | {"action_readout": "median"}))
    with pytest.raises(CheckpointError, match="action_readout is 'median', not likeliest or mean"):
        Processor.from_pretrained(folder)
