"""The vision stage: it learns from the image, leaves the decoder alone, and hands over to the policy's training."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_policy import tiny, write_dataset

from spatialvla.errors import InputError
from spatialvla.model.presets import PRESETS, preset
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.bad_steps import NonFiniteLoss
from spatialvla.training.checkpoints.checkpointer import complete, load_weights
from spatialvla.training.config import DatasetConfig
from spatialvla.training.guidance.vision_stage import VisionStage
from spatialvla.training.loop import STAGE_FOLDER, Trainer, train
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.build import scale_residuals

OPTIONS = {
    "depth": "sensor",
    "privileged": ("observation.state[0:1]",),
    "vision_batch_size": 16,
    "vision_rate": 3e-3,
    "keypoints": ("observation.square",),
}


def lines(config):
    return [json.loads(line) for line in (config.out / "vision.jsonl").read_text().splitlines()]


def test_the_encoder_learns_and_the_rest_stays(make_config):
    config = make_config(vision_steps=200, **OPTIONS)
    trainer = Trainer(config, World(), Progress(config, None))
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    assert trainer.pretrain_vision([])
    first, second = lines(config)
    assert second["regression"] < 0.7 * first["regression"]
    assert second["looking"] < 0.5 * first["looking"]
    assert second["held_out/looking"] < 0.5  # looking at random costs about 2
    for name, parameter in trainer.model.named_parameters():
        learns = name.startswith(("vision_tower", "position_embedding_3d"))
        assert torch.equal(before[name], parameter) != learns, name


def test_actions_that_answer_other_states_are_no_targets(make_config, tmp_path):
    dataset = write_dataset(tmp_path / "driven", driven=(5,))
    config = make_config(datasets=(DatasetConfig(str(dataset)),), vision_steps=100, **OPTIONS)
    trainer = Trainer(config, World(), Progress(config, None))
    unknown = VisionStage(trainer.model, trainer.mixture, config).targets.isnan()
    # One privileged number, and four of each of the chunk's two actions: of the second at step 5 of 12.
    assert unknown.nonzero().tolist() == [[12 * episode + 5, 5 + n] for episode in range(4) for n in range(4)]
    assert trainer.pretrain_vision([])
    assert np.isfinite([value for line in lines(config) for value in line.values()]).all()


def test_an_encoder_without_ego3d_learns_too(make_config, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", lambda: tiny().replace(use_vision_zoe=False))
    config = make_config(vision_steps=20, **OPTIONS)
    trainer = Trainer(config, World(), Progress(config, None))
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    assert trainer.pretrain_vision([])
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(before[name], p)}
    assert changed
    assert all(name.startswith("vision_tower") for name in changed)


def test_making_a_trainer_trains_nothing(make_config):
    config = make_config(vision_steps=100, **OPTIONS)
    Trainer(config, World(), Progress(config, None))
    assert not config.out.exists()


def test_it_comes_before_the_policys_training_and_only_once(make_config):
    config = make_config(steps=2, save_every=1, vision_steps=100, ema_decay=0.9, **OPTIONS)
    assert train(config, device="cpu").finished
    assert not (config.out / STAGE_FOLDER).exists()
    written = (config.out / "vision.jsonl").stat().st_mtime_ns
    train(replace(config, steps=4), resume=True, device="cpu")
    assert (config.out / "vision.jsonl").stat().st_mtime_ns == written


def test_it_stops_when_told_to_and_goes_on_exactly(make_config, tmp_path, monkeypatch):
    """With datasets that are not in memory, too."""
    straight = make_config(
        out=tmp_path / "straight", in_memory=False, steps=2, save_every=60, vision_steps=200, **OPTIONS
    )
    assert train(straight, device="cpu").finished
    halves = replace(straight, out=tmp_path / "halves")
    losses, calls = VisionStage.losses, []

    def interrupted(self, loaded):
        calls.append(loaded.names)
        if len(calls) == 130:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(self, loaded)

    with monkeypatch.context() as patch:
        patch.setattr(VisionStage, "losses", interrupted)
        result = train(halves, device="cpu")
    assert (result.finished, result.step, result.model) == (False, 0, None)
    with pytest.raises(InputError, match="already holds a run"):
        train(halves, device="cpu")
    with pytest.raises(InputError, match="batch_size was 8, is 4"):
        train(replace(halves, batch_size=4), resume=True, device="cpu")
    assert train(halves, resume=True, device="cpu").finished
    one, two = (load_weights(config.out) for config in (straight, halves))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [line["step"] for line in lines(halves)] == [100, 200]


@pytest.mark.parametrize("part", ["encoder", "head"])
def test_a_step_whose_loss_is_no_number_is_left_out_and_counted(make_config, monkeypatch, part):
    """Or ends the run; also where only the gradients of the part that is not clipped are infinite."""
    losses, calls = VisionStage.losses, []

    def poisoned(self, loaded):
        found = losses(self, loaded)
        calls.append(loaded.names)
        if len(calls) == 2:
            bad = {
                "encoder": found["regression"] * float("nan"),
                "head": self.head.queries.weight.sum() * 1e39,
            }
            found["regression"] = bad[part]
        return found

    monkeypatch.setattr(VisionStage, "losses", poisoned)
    config = make_config(steps=2, vision_steps=100, skip_bad_batches=True, held_out=0.0, **OPTIONS)
    assert train(config, device="cpu").finished
    assert all(torch.isfinite(tensor).all() for tensor in load_weights(config.out).values())
    rows = map(json.loads, (config.out / "metrics.jsonl").read_text().splitlines())
    assert [row["skipped"] for row in rows] == [1, 1]
    assert np.isfinite([value for line in lines(config) for value in line.values()]).all()
    calls.clear()
    fatal = replace(config, out=config.out / "fatal", skip_bad_batches=False, save_every=1)
    with pytest.raises(NonFiniteLoss, match=r"step 2 of the vision stage .* squares episode \d+ step \d+"):
        train(fatal, device="cpu")
    (saved,) = complete(fatal.out / STAGE_FOLDER)
    assert saved.name == "step_00000001"


def test_only_matrices_decay(make_config, monkeypatch):
    """Without a gradient, decay is all that moves a weight."""
    config = make_config(vision_steps=1, weight_decay=100.0, warmup=0.0, **OPTIONS)
    monkeypatch.setattr(VisionStage, "losses", lambda self, loaded: {"regression": 0 * _total(self.trained)})
    trainer = Trainer(config, World(), Progress(config, None))
    before = {name: p.clone() for name, p in trainer.model.vision_tower.named_parameters()}
    assert trainer.pretrain_vision([])
    for name, parameter in trainer.model.vision_tower.named_parameters():
        decays = parameter.ndim >= 2 and name != "embeddings.position_embedding.weight"
        assert torch.equal(before[name], parameter) != decays or not before[name].any(), name


def _total(module):
    return sum(parameter.sum() for parameter in module.parameters())


def test_scaled_residuals_add_less():
    torch.manual_seed(0)
    model = SpatialVLA(preset("nano"))
    layer = model.vision_tower.encoder.layers[0]
    before = layer.mlp.fc2.weight.std()
    scale_residuals(model)
    assert torch.isclose(layer.mlp.fc2.weight.std(), before * 8**-0.5)
