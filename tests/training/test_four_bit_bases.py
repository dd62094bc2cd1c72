"""Fine-tuning a checkpoint in 4 bits: adapters learn, runs go on exactly, and what comes out loads everywhere."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.lora import add_lora
from spatialvla.model.lora_options import LoraOptions
from spatialvla.model.quantization.linear import FourBitLinear
from spatialvla.model.quantization.network import quantize
from spatialvla.model.quantization_entry import Quantization
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.policy import Policy
from spatialvla.processor import Processor
from spatialvla.training.checkpoints.checkpointer import FOLDER, load_weights
from spatialvla.training.checkpoints.export import export
from spatialvla.training.loop import Trainer, train
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.trainable import narrow_frozen, select_trainable
from spatialvla.types import Observation

pytest.importorskip("peft")

OBSERVATION = Observation(np.full((48, 64, 3), 90, np.uint8), "push the square")


@pytest.fixture(scope="module")
def base(start, tmp_path_factory):
    return written(start, tmp_path_factory.mktemp("four_bits"), Quantization(text_head=True))


def written(start, folder, options):
    model = SpatialVLA.from_pretrained(start, dtype="bfloat16")
    quantize(model, options)
    Processor.from_pretrained(start).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_learns_goes_on_exactly_and_acts(make, dataset, base, tmp_path, precision):
    lora = LoraOptions(rank=4)
    straight = make(
        "lora", [dataset], policy=str(base), lora=lora, steps=4, save_every=2, keep=5, precision=precision
    )
    result = train(straight, device="cpu")
    halves = replace(straight, out=tmp_path / "halves")
    shutil.copytree(straight.out / FOLDER / "step_00000002", halves.out / FOLDER / "step_00000002")
    train(halves, resume=True, device="cpu")
    first, second = (load_weights(run.out) for run in (straight, halves))
    assert all(torch.equal(first[name], second[name]) for name in first)
    # The adapter alone is what comes out; each verb adds it to the base in 4 bits.
    assert (result.model / "adapter_model.safetensors").exists()
    assert Policy.from_pretrained(result.model).act(OBSERVATION).actions.shape == (2, 7)
    export(straight.out, tmp_path / "merged", merge=True)
    merged, adapted = (SpatialVLA.from_pretrained(path) for path in (tmp_path / "merged", result.model))
    assert merged.config.quantization is None
    assert all(map(torch.equal, merged.state_dict().values(), adapted.state_dict().values()))
    changed = SpatialVLA.from_pretrained(base).language_model.model.layers[0].mlp.up_proj
    widened = changed.widened(torch.float32).weight
    assert not torch.equal(merged.language_model.model.layers[0].mlp.up_proj.weight, widened)


@pytest.mark.parametrize("mode", ["full", "adapt"])
def test_other_modes_want_full_precision(make, dataset, base, mode):
    with pytest.raises(InputError, match="take --mode lora, or the checkpoint that it was made of"):
        train(make(mode, [dataset], policy=str(base)), device="cpu")


def test_a_head_without_text_is_refused(make, dataset, start, tmp_path):
    base = written(start, tmp_path / "actions", Quantization())
    with pytest.raises(CheckpointError, match="export it again with --text-head"):
        train(make("lora", [dataset], policy=str(base)), device="cpu")


def test_several_processes_are_refused(make, dataset, base, monkeypatch):
    config = make("lora", [dataset], policy=str(base))
    monkeypatch.setattr(World, "on_main", lambda self, work: work())
    with pytest.raises(InputError, match="in one process"):
        Trainer(config, World(size=2), Progress(config, None))


def test_frozen_matrices_in_bfloat16_change_no_number_of_a_step(make, dataset, start, base):
    for policy in (start, base):
        found = []
        for narrow in (False, True):
            torch.manual_seed(0)
            model = SpatialVLA.from_pretrained(policy)
            add_lora(model, policy, LoraOptions(rank=4))
            select_trainable(model, "lora")
            if narrow:
                narrow_frozen(model)
            config = make("lora", [dataset], policy=str(policy))
            batch = a_batch(config)
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.train().training_loss(batch).loss
            loss.backward()
            found.append([loss, *(p.grad for p in model.parameters() if p.requires_grad)])
        assert all(map(torch.equal, *found))
    kept = {p.dtype for name, p in model.named_parameters() if "lora_" in name or "vision_zoe" in name}
    assert kept == {torch.float32}
    assert model.language_model.lm_head.weight.dtype == torch.bfloat16
    assert any(isinstance(part, FourBitLinear) for part in model.modules())


def a_batch(config):
    trainer = Trainer(config, World(), Progress(config, None))
    return next(iter(trainer.feed.training(0))).batch
