"""Export: runs and adapters become folders that load, with the same outputs, whole, merged, sharded or smaller."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spatialvla import Policy, Processor, SpatialVLA
from spatialvla.actions.grids import ActionGrid
from spatialvla.cli.main import main
from spatialvla.common.json_files import read_json, write_json
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.lora import adapter_parameters, add_lora, merge_lora, save_adapter
from spatialvla.model.lora_options import LoraOptions
from spatialvla.training.checkpoints import export as exporting
from spatialvla.training.checkpoints.checkpointer import FOLDER, Checkpointer, Moment
from spatialvla.training.checkpoints.export import export, save_layout
from spatialvla.training.checkpoints.tensors import Trained
from spatialvla.training.config import TrainConfig
from spatialvla.training.config_file import KEPT

CHECKPOINT = Path(__file__).parent.parent / "goldens" / "reference" / "checkpoint"
processor = Processor.from_pretrained(CHECKPOINT)


def perturbed(parameters) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.02 * torch.randn_like(parameter))


def a_model(lora: bool) -> SpatialVLA:
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    if lora:
        add_lora(model, CHECKPOINT, LoraOptions(rank=4, modules_to_save=("spatial_embed_tokens",)))
    perturbed(adapter_parameters(model).values() if lora else [model.multi_modal_projector.linear.weight])
    return model


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A run's folder and the model it trained, whose checkpoint holds another part, too."""

    def make(lora: bool) -> tuple[Path, SpatialVLA]:
        run, model = tmp_path / "run", a_model(lora)
        save_layout(model, processor, run)
        weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        weights["privileged.linear.weight"] = torch.zeros(3)
        monkeypatch.setattr(exporting, "load_weights", lambda folder: {run: weights}[folder])
        return run, model

    return make


def assert_same(folder: Path, model: SpatialVLA, atol: float = 0.0) -> None:
    loaded, state = SpatialVLA.from_pretrained(folder).state_dict(), model.state_dict()
    mirrored = "language_model.model.embed_tokens.weight"
    assert loaded.keys() == state.keys()
    assert all(torch.allclose(t, state[n], atol=atol, rtol=0) for n, t in loaded.items() if n != mirrored)
    Policy.from_pretrained(folder, dataset="tiny_robot/0.1.0")


def test_a_run(make_run, tmp_path):
    run, model = make_run(lora=False)
    export(run, tmp_path / "out")
    assert_same(tmp_path / "out", model)
    with pytest.raises(InputError, match="no LoRA adapter to merge"):
        export(run, tmp_path / "merged", merge=True)


def started_from(run: Path, policy: Path) -> None:
    write_json(run / KEPT, TrainConfig(policy=str(policy)).to_json())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_mean_with_what_a_run_started_from(make_run, tmp_path, lora, share):
    run, model = make_run(lora)
    started_from(run, CHECKPOINT)
    export(run, tmp_path / "out", merge=lora, start_share=share)
    if lora:
        merge_lora(model)
    start = SpatialVLA.from_pretrained(CHECKPOINT).state_dict()
    trained = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert any(not torch.equal(tensor, start[name]) for name, tensor in trained.items())
    for name, tensor in model.state_dict().items():
        tensor.copy_((1 - share) * trained[name] + share * start[name])
    assert_same(tmp_path / "out", model, atol=1e-6)


def test_a_mean_keeps_the_depth_estimator_whole_and_changes_nothing_that_is_equal(make_run, tmp_path):
    run, model = make_run(lora=False)
    other = SpatialVLA.from_pretrained(CHECKPOINT)
    perturbed(other.vision_zoe_model.parameters())
    processor.save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    started_from(run, tmp_path / "other")
    export(run, tmp_path / "out", start_share=0.3)
    mean, own = SpatialVLA.from_pretrained(tmp_path / "out").state_dict(), model.state_dict()
    changed = [name for name, tensor in mean.items() if not torch.equal(tensor, own[name])]
    assert changed == ["multi_modal_projector.linear.weight"]


def test_means_that_mean_nothing_are_refused(make_run, tmp_path):
    run, _ = make_run(lora=False)
    with pytest.raises(InputError, match="is no run that started from a policy"):
        export(run, tmp_path / "out", start_share=0.5)
    with pytest.raises(InputError, match="is no run that started from a policy"):
        export(CHECKPOINT, tmp_path / "out", start_share=0.5)
    started_from(run, CHECKPOINT)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=f"a fraction from 0 to 1, not {share:g}"):
            export(run, tmp_path / "out", start_share=share)
    started_from(run, tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"gone, cannot be loaded"):
        export(run, tmp_path / "out", start_share=0.5)
    other = tmp_path / "other"
    shutil.copytree(CHECKPOINT, other)
    settings = read_json(other / "processor_config.json")
    settings |= ActionGrid.uniform(processor.grid.bins).to_json()
    write_json(other / "processor_config.json", settings)
    started_from(run, other)
    with pytest.raises(
        InputError, match=r"run and .*other, which it started from, differ in action grid, so"
    ):
        export(run, tmp_path / "out", start_share=0.5)
    settings = read_json(CHECKPOINT / "config.json")
    for entry, said in (
        ({"ego3d_frame": "robot"}, "ego3d frame"),
        (
            {"workspace": {"center": [0.0, 0.0, 0.5], "scale": 1.5}, "cameras": ["front"]},
            "workspace and cameras",
        ),
    ):
        shutil.copytree(CHECKPOINT, other, dirs_exist_ok=True)
        write_json(other / "config.json", settings | entry)
        with pytest.raises(InputError, match=f"run and .*other, which it started from, differ in {said}, so"):
            export(run, tmp_path / "out", start_share=0.5)
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_merged_before_a_mean(make_run, tmp_path):
    run, _ = make_run(lora=True)
    started_from(run, CHECKPOINT)
    with pytest.raises(InputError, match="merge it, with --merge"):
        export(run, tmp_path / "out", start_share=0.5)


def test_a_lora_run_as_adapter_and_merged(make_run, tmp_path):
    run, model = make_run(lora=True)
    export(run, tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    export(run, tmp_path / "whole", merge=True)
    assert not (tmp_path / "whole" / "adapter_config.json").exists()
    merge_lora(model)
    assert_same(tmp_path / "adapter", model, atol=1e-6)
    assert_same(tmp_path / "whole", model, atol=1e-6)


def test_an_adapter_merged_by_the_command(tmp_path, capsys):
    model = a_model(lora=True)
    save_adapter(model, tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    out = tmp_path / "out"
    main(["export", "--policy", str(tmp_path / "adapter"), "--out", str(out), "--merge", "--dtype", "bf16"])
    assert "Wrote" in capsys.readouterr().out
    tensors = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    merge_lora(model)
    weight = "language_model.model.layers.0.mlp.up_proj.weight"
    assert torch.equal(tensors[weight], model.state_dict()[weight].bfloat16())
    with pytest.raises(SystemExit):
        main(
            [
                "export",
                "--policy",
                str(CHECKPOINT),
                "--out",
                str(tmp_path / "other"),
                "--max-shard-size",
                "small",
            ]
        )
    assert "max_shard_size is a size such as 5GB" in capsys.readouterr().err


def test_large_models_are_sharded_and_an_older_save_leaves_nothing_behind(tmp_path):
    export(CHECKPOINT, tmp_path, max_shard_size="500KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(shards)
    for name in shards:
        tensors = load_file(tmp_path / name)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 500_000
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    assert_same(tmp_path, model)
    export(CHECKPOINT, tmp_path)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    assert_same(tmp_path, model)


def test_a_real_checkpoint(tmp_path):
    model = a_model(lora=True)
    save_layout(model, processor, tmp_path)
    optimizer = torch.optim.AdamW(adapter_parameters(model).values())
    Checkpointer(tmp_path / FOLDER, keep=1).save(Trained(model, optimizer), Moment(1, 0.0, {}))
    export(tmp_path, tmp_path / "out", merge=True)
    merge_lora(model)
    assert_same(tmp_path / "out", model, atol=1e-6)


def test_a_run_that_lacks_weights_is_named(make_run, tmp_path, monkeypatch):
    run, model = make_run(lora=False)
    weights = {f"model.{n}": t for n, t in model.state_dict().items() if n != "spatial_embed_tokens.weight"}
    monkeypatch.setattr(exporting, "load_weights", lambda folder: weights)
    with pytest.raises(CheckpointError, match=r"run lacks the tensor spatial_embed_tokens\.weight"):
        export(run, tmp_path / "out")


def test_requests_that_cannot_be_met(tmp_path):
    with pytest.raises(CheckpointError, match="neither a training run"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="where the model comes from"):
        export(CHECKPOINT, CHECKPOINT)
