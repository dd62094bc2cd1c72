"""What makes steps faster changes no loss and no gradient beyond rounding."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_run import make_batch
from tiny_policy import tiny
from torch.nn import functional as F

from spatialvla.batch import GIVEN, IGNORED
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training import loop
from spatialvla.training.checkpoints.checkpointer import FOLDER, load_weights
from spatialvla.training.loop import train
from spatialvla.training.recipes import nano
from spatialvla.training.start import speed
from spatialvla.training.start.speed import compiles, speed_up

CPU = torch.device("cpu")


def a_model() -> SpatialVLA:
    torch.manual_seed(0)
    model = SpatialVLA(tiny())
    model.vision_zoe_model.requires_grad_(False)
    return model.train()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_loss_is_that_of_all_logits_at_the_labels():
    """Rows with fewer labels than others, and with given tokens before them, too."""
    model, (batch, _) = a_model(), make_batch(0)
    labels = batch.labels.clone()
    labels[1, 19:22] = GIVEN
    for mask in ("prefix", "causal"):
        for given in (batch.labels, labels):
            seen = replace(batch, labels=given)
            hidden = model.hidden_states(seen, mask)
            targets = given[:, 1:]
            logits = model.language_model.logits(hidden[:, :-1][targets >= 0])
            whole = F.cross_entropy(logits, targets[targets >= 0])
            output = model.training_loss(seen, mask)
            torch.testing.assert_close(output.logits, logits)
            assert torch.equal(output.labels, targets[targets >= 0])
            assert torch.equal(output.rows, (targets >= 0).nonzero()[:, 0])
            torch.testing.assert_close(output.prompt_hidden, hidden[:, 18])
            torch.testing.assert_close(output.loss, whole)
            found, expected = gradients(model, output.loss), gradients(model, whole)
            assert found.keys() == expected.keys()
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_filling_a_batch_changes_nothing():
    model, (batch, _) = a_model(), make_batch(0)
    filled = batch.filled(16, 0)
    assert filled.input_ids.shape == filled.labels.shape == filled.attention_mask.shape == (8, 32)
    assert (filled.labels[:, 26:] == IGNORED).all()
    assert not filled.attention_mask[:, 26:].any()
    assert filled.filled(16, 0) is filled
    torch.testing.assert_close(model.training_loss(filled).loss, model.training_loss(batch).loss)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_faster_parts_give_the_same_gradients(precision):
    plain, fast, (batch, _) = a_model(), a_model(), make_batch(1)
    speed_up(fast, precision, compiled=False)
    assert list(plain.state_dict()) == list(fast.state_dict())
    found = []
    for model in (plain, fast):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model.training_loss(batch).loss
        found.append({"loss": loss, **gradients(model, loss)})
    for name, gradient in found[0].items():
        error = (found[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-3)
        assert error < (1e-5 if precision == "fp32" else 0.05), name
    np.testing.assert_allclose(found[0]["loss"].item(), found[1]["loss"].item(), rtol=1e-3)


@pytest.mark.slow
def test_compiled_layers_give_the_same_gradients_for_each_length():
    plain, fast = a_model(), a_model()
    speed_up(fast, "fp32", compiled=True)
    batch = make_batch(1)[0]
    for multiple in (1, 16):
        filled = batch.filled(multiple, 0)
        losses = [model.training_loss(filled).loss for model in (plain, fast)]
        torch.testing.assert_close(*losses)
        both = [gradients(model, loss) for model, loss in zip((plain, fast), losses, strict=True)]
        torch.testing.assert_close(*both, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_a_compiled_run_goes_on_to_the_bit(make_config, tmp_path):
    straight = make_config(out=tmp_path / "straight", compile=True, steps=4, save_every=2, keep=5)
    train(straight, device="cpu")
    halves = replace(straight, out=tmp_path / "halves")
    shutil.copytree(straight.out / FOLDER / "step_00000002", halves.out / FOLDER / "step_00000002")
    train(halves, resume=True, device="cpu")
    first, second = (load_weights(run.out) for run in (straight, halves))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_long_runs_on_a_cpu_are_compiled(monkeypatch):
    monkeypatch.setattr(speed.shutil, "which", lambda name: name)
    long = replace(nano(), minutes=60.0)
    assert compiles(long, CPU, 100_000)
    assert compiles(replace(long, minutes=None), CPU, 2_000)
    assert not compiles(replace(long, minutes=None), CPU, 500)
    assert not compiles(replace(long, minutes=3.0), CPU, 100_000)
    assert not compiles(long, torch.device("cuda"), 100_000)
    assert not compiles(replace(long, compile=False), CPU, 100_000)
    assert compiles(replace(long, minutes=3.0, compile=True), torch.device("cuda"), 10)
    monkeypatch.setattr(speed.shutil, "which", lambda name: None)
    assert not compiles(long, CPU, 100_000)
    assert not compiles(long, CPU, 100_000, decided=True)


@pytest.mark.parametrize("first", [False, True])
def test_a_run_that_is_resumed_for_longer_or_shorter_keeps_to_what_it_decided(
    make_config, monkeypatch, first
):
    """Compiled layers round a little differently: what a run has begun with holds, unless it is told otherwise."""
    chosen = []
    monkeypatch.setattr(loop, "speed_up", lambda model, precision, compiled: chosen.append(compiled))
    monkeypatch.setattr(speed.shutil, "which", lambda name: name)
    for longest, changes in ((first, {}), (not first, {}), (not first, {"compile": not first})):
        monkeypatch.setattr(speed, "LONG_SAMPLES", 1 if longest else 1000)
        train(make_config(steps=len(chosen) + 1, **changes), resume=True, device="cpu")
    assert chosen == [first, first, not first]
