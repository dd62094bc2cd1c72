"""Going on with a run: exactly, alone, and only with what it was begun with."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from spatialvla.common.claims import claimed
from spatialvla.errors import InputError
from spatialvla.model.lora_options import LoraOptions
from spatialvla.training.checkpoints.checkpointer import FOLDER
from spatialvla.training.loop import train


def everything(checkpoint):
    """Every tensor of a checkpoint of one process."""
    return {name: t for file in checkpoint.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_with_dropout_is_exact_to_the_bit(make_config, tmp_path, workers):
    """Validations and new workers on the way draw nothing from the generator of the dropout."""
    policy = train(make_config(out=tmp_path / "policy", steps=1), device="cpu").model
    straight = make_config(
        out=tmp_path / "straight",
        policy=str(policy),
        mode="lora",
        lora=LoraOptions(rank=4, dropout=0.3),
        workers=workers,
        steps=4,
        save_every=2,
        eval_every=2,
        keep=5,
    )
    train(straight, device="cpu")
    halves = replace(straight, out=tmp_path / "halves")
    shutil.copytree(straight.out / FOLDER / "step_00000002", halves.out / FOLDER / "step_00000002")
    train(halves, resume=True, device="cpu")
    first, again = (everything(run.out / FOLDER / "step_00000004") for run in (straight, halves))
    assert first.keys() == again.keys()
    differ = [name for name, tensor in first.items() if not torch.equal(tensor, again[name])]
    assert differ == []
    assert any("lora_" in name for name in first)


def test_only_one_run_writes_a_folder(make_config):
    config = make_config(steps=1)
    with (
        claimed(config.out / FOLDER, "training run"),
        pytest.raises(InputError, match=r"Another training run is writing .*run/checkpoints; choose another"),
    ):
        train(config, device="cpu")
    assert train(config, device="cpu").finished
