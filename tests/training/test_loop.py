import json
import os
import shutil
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from spatialvla.errors import InputError
from spatialvla.policy import Policy
from spatialvla.training import loop
from spatialvla.training.bad_steps import NonFiniteLoss
from spatialvla.training.checkpoints.checkpointer import FOLDER, complete
from spatialvla.training.loop import train
from spatialvla.training.step import Learner
from spatialvla.types import Observation


def lines(config, kind):
    rows = map(json.loads, (config.out / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] == kind]


def test_loss_falls_and_the_exported_policy_acts(make_config, dataset):
    config = make_config(steps=100, ema_decay=0.9)
    result = train(config, device="cpu")
    assert result.finished
    rows = lines(config, "train")
    assert [row["step"] for row in rows] == list(range(1, 101))
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert rows[-1]["accuracy/gripper"] > 0.7
    assert rows[-1]["samples_per_s"] > 0
    (validation,) = lines(config, "validation")
    assert validation["error/quantization"] <= validation["error/translation"] < 2
    assert 0 < validation["error_of_mean/translation"] != validation["error/translation"]
    assert validation["error_of_mean/gripper"] == validation["error/gripper"]
    assert list((config.out / "tensorboard").iterdir())

    policy = Policy.from_pretrained(result.model)
    chunk = policy.act(
        Observation(
            image=np.full((32, 32, 3), 90, np.uint8),
            instruction="push the square",
            depth=np.full((32, 32), 1.5, np.float32),
        )
    )
    assert chunk.actions.shape == (2, 7)
    assert policy.dataset == dataset.name


def everything(checkpoint):
    """Every tensor of a checkpoint of one process."""
    return {name: t for file in checkpoint.glob("*.safetensors") for name, t in load_file(file).items()}


def test_resuming_is_exact_to_the_bit(make_config, tmp_path):
    options = {
        "steps": 8,
        "ema_decay": 0.9,
        "depth_mix": 0.5,
        "depth_weights": None,
        "privileged": ("observation.state",),
        "privileged_weight": 0.1,
    }
    straight = make_config(out=tmp_path / "straight", save_every=4, keep=5, **(options | {"depth_mix": 0.0}))
    train(straight, device="cpu")
    halves = replace(straight, out=tmp_path / "halves")
    folders = [config.out / FOLDER for config in (straight, halves)]
    assert [path.name for path in complete(folders[0])] == ["step_00000004", "step_00000008"]
    shutil.copytree(folders[0] / "step_00000004", folders[1] / "step_00000004")
    with pytest.raises(InputError, match="already holds a run"):
        train(halves, device="cpu")
    train(halves, resume=True, device="cpu")
    first, again = (everything(folder / "step_00000008") for folder in folders)
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
    assert lines(straight, "train")[-1]["loss"] == lines(halves, "train")[-1]["loss"]


def test_a_run_that_has_ended_learns_nothing_more_when_it_is_resumed(make_config):
    config = make_config(steps=2)
    ended = train(config, device="cpu")
    before = everything(config.out / FOLDER / "step_00000002")
    console = Console(record=True, width=200)
    again = train(config, resume=True, device="cpu", console=console)
    assert (again.finished, again.step, again.model) == (True, 2, ended.model)
    assert "The run has ended already; more steps, epochs or minutes" in console.export_text()
    assert [path.name for path in complete(config.out / FOLDER)] == ["step_00000002"]
    after = everything(config.out / FOLDER / "step_00000002")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_sigterm_saves_and_the_run_goes_on(make_config, monkeypatch):
    config = make_config(steps=6)
    update = Learner.update

    def interrupted(self, loaded, step, *rest):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, loaded, step, *rest)

    monkeypatch.setattr(Learner, "update", interrupted)
    result = train(config, device="cpu")
    assert (result.finished, result.step, result.model) == (False, 2, None)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert train(config, resume=True, device="cpu").step == 6


def test_sigterm_before_the_first_step_ends_at_once_and_the_run_begins_later(make_config, monkeypatch):
    config = make_config(steps=2)
    opened = loop.mixture_of

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("surveyed all the same")

    for resume, step in ((False, 0), (True, 2)):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "mixture_of", interrupted)
            result = train(config, resume=resume, device="cpu")
        assert (result.finished, result.step, result.model) == (False, step, None)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert loop.mixture_of is opened
        assert train(config, resume=resume, device="cpu").finished


def test_only_the_last_checkpoints_are_kept(make_config):
    config = make_config(steps=5, save_every=1)
    train(config, device="cpu")
    assert sorted(p.name for p in (config.out / "checkpoints").iterdir()) == [
        "step_00000004",
        "step_00000005",
    ]


def test_a_loss_that_is_no_number_stops_and_names_the_samples(make_config, monkeypatch):
    config = make_config(steps=3)
    update = Learner.update

    def poisoned(self, loaded, step, *rest):
        if step == 1:
            with torch.no_grad():
                self.model.multi_modal_projector.linear.weight.fill_(float("nan"))
        return update(self, loaded, step, *rest)

    monkeypatch.setattr(Learner, "update", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"step 2 is nan.*episode \d+ step \d+"):
        train(config, device="cpu")


def test_the_learning_rate_follows_the_clock(make_config, monkeypatch):
    ticks = count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    config = make_config(steps=100_000, minutes=0.5, warmup=0.0, schedule="linear")
    result = train(config, device="cpu")
    assert result.finished
    assert result.step < 30
    rates = [row["learning_rate"] for row in lines(config, "train")]
    assert rates[0] == config.learning_rate
    assert rates[-1] < 0.3 * config.learning_rate
    assert rates == sorted(rates, reverse=True)


def test_an_untrained_estimator_is_refused(make_config):
    with pytest.raises(InputError, match="untrained"):
        train(make_config(depth="estimate"), device="cpu")


def test_fine_tuning_starts_from_a_checkpoint(make_config, tmp_path):
    first = train(make_config(), device="cpu")
    config = make_config(out=tmp_path / "more", policy=str(first.model), key="again", steps=2)
    second = train(config, device="cpu")
    policy = Policy.from_pretrained(second.model, dataset="again")
    assert set(policy.processor.statistics) == {"squares", "again"}
    assert isinstance(second.model, Path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be positive, not -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, not nan"),
        ({"clip_norm": 0.0}, "clip_norm must be positive, not 0.0"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, not -0.1"),
        ({"betas": (0.9, 1.0)}, r"betas must lie in \[0, 1\), not \(0.9, 1.0\)"),
    ],
)
def test_numbers_that_cannot_train_are_one_sentence(make_config, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        make_config(**changes)
