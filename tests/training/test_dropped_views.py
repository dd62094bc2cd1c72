"""Cameras and states that are left out of samples: how often, always the same ones, and what runs do with them."""

import io
import json
import re
import shutil
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from told_dataset import write_told

from spatialvla.batch import IGNORED
from spatialvla.data.batches import evaluation_batches, training_batches
from spatialvla.model.loading import load
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.bad_steps import BadSteps
from spatialvla.training.checkpoints.checkpointer import FOLDER, Checkpointer, Moment
from spatialvla.training.config import DatasetConfig
from spatialvla.training.feed.datasets import open_mixture
from spatialvla.training.feed.rank_batches import Feed
from spatialvla.training.guidance.vision_stage import VisionStage
from spatialvla.training.loop import train
from spatialvla.training.metrics import prompts_of
from spatialvla.training.parallel.world import World
from spatialvla.training.presence import present, slots, without
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.build import build, network_config

FRONT = "observation.images.front"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A dataset with a wrist camera and one without."""
    root = tmp_path_factory.mktemp("told")
    return write_told(root / "wrist"), write_told(root / "blind", wrist=False)


@pytest.fixture
def grown(make_config, start, told):
    """(**changes) -> the configuration of a run that gives the policy a wrist camera and a state, and hides some."""

    def make(datasets=1, **changes):
        settings = {
            "datasets": tuple(DatasetConfig(str(folder), camera=FRONT) for folder in told[:datasets]),
            "policy": str(start),
            "add_camera": ("wrist",),
            "add_state": 3,
            "camera_dropout": 0.3,
            "state_dropout": 0.4,
            "precision": "fp32",
            "steps": 4,
        }
        return make_config(**settings | changes)

    return make


def opened(config):
    """The run's mixture, its model and what feeds it."""
    progress = Progress(config, None)
    mixture = open_mixture(config, network_config(config), World(), progress)
    model, processor = build(config, mixture)
    return mixture, model.eval(), Feed(config, mixture, model, processor, World(), progress)


def presences(batches, network):
    """(samples, 3) which of the two cameras and the state each sample has, and the samples' names."""
    rows, names = [], []
    for loaded in batches:
        there = present(loaded, network)
        absent = torch.zeros(len(loaded), dtype=torch.bool)
        rows.append(torch.stack([there.get(name, absent) for name in ("image", "wrist", "state")], dim=1))
        names += loaded.names
    return torch.cat(rows).numpy(), names


def test_as_many_are_hidden_as_asked_and_one_camera_always_stays(grown):
    """Both cameras are hidden with 0.09; then one of them stays, each as often."""
    _, model, feed = opened(grown(steps=50))
    there, _ = presences(islice(feed.training(0), 50), model.config)
    assert there[:, :2].any(axis=1).all()
    np.testing.assert_allclose(there.mean(axis=0), [0.7 + 0.045, 0.7 + 0.045, 0.6], atol=0.07)
    together = np.mean(there[:, 0] & there[:, 2]) - there[:, 0].mean() * there[:, 2].mean()
    assert abs(together) < 0.07


def test_the_same_are_hidden_by_any_number_of_ranks_and_workers(grown):
    mixture, model, feed = opened(grown())
    network = model.config
    one, names = presences(islice(feed.training(2), 3), network)
    with_workers = training_batches(mixture, feed.processor, 8, feed.options, workers=1, first_step=2)
    same, _ = presences(islice(with_workers, 3), network)
    np.testing.assert_array_equal(one, same)
    ranks = [
        presences(
            islice(training_batches(mixture, feed.processor, 4, feed.options, rank=rank, ranks=2, first_step=2), 3),
            network,
        )
        for rank in range(2)
    ]  # fmt: skip
    found = sorted(
        zip([*ranks[0][1], *ranks[1][1]], np.concatenate([r[0] for r in ranks]).tolist(), strict=True)
    )
    assert found == sorted(zip(names, one.tolist(), strict=True))


def test_nothing_is_hidden_from_validations_and_what_data_lacks_stays_missing(grown):
    mixture, model, feed = opened(grown(datasets=2, held_out=0.5))
    network = model.config
    held_out, names = presences(evaluation_batches(mixture, feed.processor, 8, 32, feed.options), network)
    blind = np.array(["blind" in name for name in names])
    assert 0 < blind.sum() < len(names)
    np.testing.assert_array_equal(held_out, np.stack([blind >= 0, ~blind, blind >= 0], axis=1))
    drawn, names = presences(islice(feed.training(0), 8), network)
    blind = np.array(["blind" in name for name in names])
    assert drawn[blind].tolist() == [[True, False, state] for state in drawn[blind, 2].tolist()]
    assert not drawn[~blind, 0].all()


def test_hidden_parts_are_seen_by_no_one(grown):
    """With other pixels and numbers in the slots that are hidden the loss is the same."""
    _, model, feed = opened(grown())
    loaded = next(feed.training(0))
    hidden = {name: ~there for name, there in present(loaded, model.config).items()}
    assert all(rows.any() for rows in hidden.values())
    batch = loaded.batch
    pixels = batch.pixel_values.unflatten(0, (8, 2)).clone()
    for column, name in enumerate(loaded.cameras):
        pixels[hidden[name], column] = 0.77
    state = batch.state.clone()
    state[hidden["state"]] = 0.5
    with torch.no_grad():
        expected = model.training_loss(batch)
        found = model.training_loss(replace(batch, pixel_values=pixels.flatten(0, 1), state=state))
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
        assert model.generate(prompts_of(batch)).shape == (8, 6)
        # Hidden for all, the wrist camera is as good as not there.
        where = slots(loaded, model.config)["wrist"]
        less = model.training_loss(without(batch, where)).logits
        kept = [
            column for column in range(batch.input_ids.shape[1]) if not where.start <= column < where.stop
        ]
        cut = {name: getattr(batch, name)[:, kept] for name in ("input_ids", "attention_mask", "labels")}
        images = {
            name: None if value is None else value.unflatten(0, (8, 2))[:, 0]
            for name, value in vars(batch).items()
            if name in ("pixel_values", "intrinsics", "depth", "depth_known", "extrinsics")
        }
        if images["depth_known"] is not None:
            images["depth_known"] = None
            images["depth"] = model.depth(batch).unflatten(0, (8, 2))[:, 0]
        torch.testing.assert_close(
            less, model.training_loss(replace(batch, **cut, **images)).logits, atol=1e-5, rtol=0
        )
        assert (less - expected.logits).abs().max() > 1e-4


def test_prompts_keep_the_slots_of_what_is_missing(grown):
    _, _, feed = opened(grown())
    loaded = next(feed.training(0))
    prompts = prompts_of(loaded.batch)
    front = 2 * 16 + 1
    assert (prompts.input_ids[:, :front] == 4).all()
    assert torch.equal(prompts.attention_mask[:, :front], loaded.batch.attention_mask[:, :front])
    ends = (loaded.batch.labels != IGNORED).int().argmax(dim=1)
    assert torch.equal(prompts.attention_mask.sum(1), torch.stack([
        row[:end].sum() for row, end in zip(loaded.batch.attention_mask, ends, strict=True)
    ]))  # fmt: skip


def everything(run, step):
    folder = run / FOLDER / f"step_{step:08d}"
    return {name: t for file in folder.glob("*.safetensors") for name, t in load_file(file).items()}


def test_resuming_is_exact_to_the_bit(grown, tmp_path):
    straight = grown(out=tmp_path / "straight", save_every=2, eval_every=2, keep=5)
    train(straight, device="cpu")
    halves = replace(straight, out=tmp_path / "halves", workers=1)
    shutil.copytree(straight.out / FOLDER / "step_00000002", halves.out / FOLDER / "step_00000002")
    train(halves, resume=True, device="cpu")
    first, again = everything(straight.out, 4), everything(halves.out, 4)
    assert first.keys() == again.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, again[name])] == []
    assert any("state_projector" in name for name in first)


def test_parts_of_a_batch_and_recomputed_activations_learn_the_same(grown, tmp_path):
    """Though in some of the parts no sample has a state, and in others none has the wrist camera."""
    runs = {
        "whole": grown(steps=2, ema_decay=0.0),
        "parts": grown(steps=2, accumulation=8),
        "recomputed": grown(steps=2, activation_checkpointing=True),
    }
    models = {
        name: load(SpatialVLA, train(replace(config, out=tmp_path / name), device="cpu").model, torch.float32)
        for name, config in runs.items()
    }
    for name in ("parts", "recomputed"):
        for (key, expected), found in zip(
            models["whole"].named_parameters(), models[name].parameters(), strict=True
        ):
            torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-3, msg=f"{name}: {key}")


def test_metrics_tell_how_many_have_each_part_and_what_it_is_worth(grown):
    config = grown(datasets=2, held_out=0.5, steps=2, eval_every=2)
    train(config, device="cpu")
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert {f"present/{name}" for name in ("image", "wrist", "state")} <= line.keys()
    measured = next(line for line in lines if line["kind"] == "validation")
    assert (measured["present/image"], measured["present/state"]) == (1, 1)
    assert 0.3 < measured["present/wrist"] < 0.7
    for name in ("wrist", "state"):
        parts = ("translation", "rotation", "gripper")
        assert {f"l1_without_{name}/{part}" for part in parts} <= measured.keys()
        assert measured[f"loss/without_{name}"] != measured["loss"]


def test_a_run_tells_what_it_sees_and_how_much_of_it_is_hidden(grown):
    written = io.StringIO()
    train(grown(datasets=2, steps=1), device="cpu", console=Console(file=written, width=200))
    assert re.search(
        r"^sees +image, wrist \(in 1 of 2 datasets\), a state of 3 numbers \(in 2 of 2\); hidden: a camera in 30% "
        r"and the state in 40% of the samples *$",
        written.getvalue(),
        re.M,
    )


def test_metrics_of_one_camera_are_as_before(make_config):
    config = make_config(steps=1)
    train(config, device="cpu")
    names = {
        name for line in (config.out / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)
    }
    assert not [name for name in names if "present" in name or "without" in name]


def test_the_vision_stage_reads_numbers_off_all_cameras(grown, tmp_path):
    """The wrist camera alone shows which way the arm goes: whoever does not see it is as wrong as ever."""
    options = {"privileged": ("observation.state[0:1]",), "vision_steps": 150, "vision_rate": 3e-3}
    config = grown(state_dropout=0.0, held_out=0.0, camera_dropout=0.1, vision_batch_size=16, **options)
    _, model, feed = opened(config)
    stage = VisionStage(model, feed.mixture, config)
    checkpointer = Checkpointer(tmp_path / "stage", 1, World(), 0)
    bad = BadSteps(False, World(), print)
    moment = Moment(0, 0.0, {})
    assert stage.run(feed, checkpointer, moment, tmp_path / "vision.jsonl", lambda steps: None, [], bad)
    options = replace(feed.options, camera_dropout=0.0)
    loaded = next(training_batches(feed.mixture, feed.processor, 16, options))
    where = slots(loaded, model.config)["wrist"]
    with torch.no_grad():
        seen = stage.losses(loaded)["regression"]
        unseen = stage.losses(replace(loaded, batch=without(loaded.batch, where)))["regression"]
    assert seen < 0.7 * unseen


def test_guidance_and_given_tokens_work_beside_hidden_parts(grown):
    options = {"privileged": ("observation.state",), "privileged_weight": 0.1, "soft_targets": 0.1}
    config = grown(datasets=2, steps=2, foreign_tokens=0.3, committed_steps=1, ema_decay=0.9, **options)
    assert train(config, device="cpu").finished


@pytest.mark.parametrize("in_memory", [False, True])
def test_depth_is_estimated_for_every_camera(grown, in_memory):
    config = grown(in_memory=in_memory, depth="estimate", camera_dropout=0.0)
    _, model, feed = opened(config)
    loaded = next(feed.training(0))
    assert loaded.cameras == ("image", "wrist")
    assert (loaded.batch.depth is None) != in_memory
    expected = model.depth_source(loaded.batch.pixel_values)
    torch.testing.assert_close(model.depth(loaded.batch), expected, atol=2e-3, rtol=2e-3)
