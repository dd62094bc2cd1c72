"""LoRA: nothing changes until trained, the file is peft's own, and merging changes no output."""

import builtins
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from spatialvla import ActionGrid, Policy, Processor, SpatialVLA
from spatialvla.actions.bins import Bins
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.base_digest import weights_digest
from spatialvla.model.loading import load_unmerged, stored_config
from spatialvla.model.lora import (
    TARGETS,
    LoraOptions,
    adapter_parameters,
    add_lora,
    merge_lora,
    save_adapter,
)
from spatialvla.model.published import published_name
from spatialvla.model.regrid import regrid
from spatialvla.model.weights import read_tensors, write_tensors
from spatialvla.training.metrics import prompts_of
from spatialvla.training.start.adapt import adapted_processor

REFERENCE = Path(__file__).parent.parent / "goldens" / "reference"
CHECKPOINT = REFERENCE / "checkpoint"
OPTIONS = LoraOptions(rank=4, alpha=8, modules_to_save=("spatial_embed_tokens",))
processor = Processor.from_pretrained(CHECKPOINT)


def a_batch():
    image = Image.open(next((REFERENCE / "images").glob("*.png"))).convert("RGB")
    actions = np.random.default_rng(0).uniform(-0.01, 0.01, (2, 2, 7))
    return processor([image, image], ["stop", "open the drawer"], "tiny_robot/0.1.0", actions=actions)


def trained(options: LoraOptions = OPTIONS) -> SpatialVLA:
    """A model whose adapter does something."""
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    add_lora(model, CHECKPOINT, options)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture
def saved(tmp_path):
    model = trained()
    save_adapter(model, tmp_path)
    processor.save_pretrained(tmp_path)
    return model, tmp_path


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(a_batch()).logits


def test_every_linear_layer_but_the_head_and_the_depth_estimator_is_adapted():
    plain = SpatialVLA.from_pretrained(CHECKPOINT)
    linear = {name for name, module in plain.named_modules() if isinstance(module, nn.Linear)}
    wanted = {n for n in linear if not n.startswith("vision_zoe_model") and not n.endswith("lm_head")}
    model = trained(LoraOptions(rank=4))
    adapted = {name.removesuffix(".lora_A") for name, _ in model.named_modules() if name.endswith(".lora_A")}
    assert adapted == wanted
    assert all(".lora_" in key for key in adapter_parameters(model))


@pytest.mark.parametrize("target", TARGETS)
def test_a_new_adapter_changes_nothing_and_trains_alone(target):
    before = logits(SpatialVLA.from_pretrained(CHECKPOINT))
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    add_lora(model, CHECKPOINT, LoraOptions(target=target))
    assert torch.equal(logits(model), before)
    trains = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trains) == len(adapter_parameters(model))
    assert all("lora_" in name for name in trains)


@pytest.mark.parametrize("target", TARGETS)
def test_every_adapter_of_a_target_gets_a_gradient(target):
    options = LoraOptions(rank=2, target=target)
    model = trained(options)
    model.train().training_loss(a_batch()).loss.backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0]
    assert not idle
    adapted = {name.partition(".lora_")[0] for name, p in model.named_parameters() if "lora_" in name}
    assert ("spatial_embed_tokens" in adapted) == (target != "linear")
    assert ("language_model.lm_head" in adapted) == (target == "linear+emb+h")
    # What decoding needs of the head's rows is what the whole head gives.
    hidden, rows = torch.randn(2, 3, model.config.text.hidden_size), slice(7, 40)
    head = model.language_model.eval().logits
    assert torch.allclose(head(hidden, rows), head(hidden)[..., rows], atol=1e-6)
    assert model.eval().generate(prompts_of(a_batch())).shape == (2, 6)


@pytest.mark.parametrize("target", TARGETS)
def test_merging_changes_no_output(target):
    # In float64: merged and unmerged products round differently, in float32 by as much as the bound.
    model = trained(LoraOptions(rank=4, target=target)).double()
    before = logits(model)
    assert not torch.allclose(before, logits(SpatialVLA.from_pretrained(CHECKPOINT)).double(), atol=1e-2)
    merge_lora(model)
    assert torch.allclose(logits(model), before, atol=1e-5)
    assert model.state_dict().keys() == SpatialVLA.from_pretrained(CHECKPOINT).state_dict().keys()
    assert not any(p.requires_grad for p in model.vision_zoe_model.parameters())


def test_an_adapter_folder_loads_as_a_merged_model_and_as_a_policy(saved):
    model, folder = saved
    loaded = SpatialVLA.from_pretrained(folder)
    # In float64: merged and unmerged products round differently, in float32 by as much as the bound.
    exact = SpatialVLA.from_pretrained(folder, dtype=torch.float64)
    assert torch.allclose(logits(exact), logits(model.double()), atol=1e-5)
    assert not loaded.training
    assert (folder / "adapter_model.safetensors").stat().st_size < 0.3 * (
        CHECKPOINT / "model.safetensors"
    ).stat().st_size
    observation = Policy.from_pretrained(folder, dataset="tiny_robot/0.1.0")
    assert observation.model.config == loaded.config


def test_peft_itself_reads_the_folder(saved):
    from peft import PeftModel

    model, folder = saved
    # peft knows the names of this version of transformers only, the file has the published ones.
    ours = {published_name(n): n for n, _ in SpatialVLA.from_pretrained(CHECKPOINT).named_parameters()}
    tensors = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        module, lora, rest = key.removeprefix("base_model.model.").partition(".lora_")
        name = ours[f"{module}.weight"].removesuffix(".weight") if lora else ours[module]
        tensors[f"base_model.model.{name}{lora}{rest}"] = tensor
    save_file(tensors, folder / "adapter_model.safetensors")
    theirs = PeftModel.from_pretrained(SpatialVLA.from_pretrained(CHECKPOINT), str(folder))
    assert torch.allclose(logits(theirs), logits(model), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        LoraOptions(rank=2, target="linear+emb+h"),
        LoraOptions(rank=2, modules_to_save=("lm_head", "post_layernorm")),
    ],
)
def test_what_else_is_adapted_or_trained_whole_comes_back_from_the_file(tmp_path, options):
    model = trained(options)
    save_adapter(model, tmp_path)
    processor.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert any("post_layernorm" in key for key in saved) == bool(options.modules_to_save)
    assert any("lm_head" in key for key in saved)
    again = load_unmerged(SpatialVLA, tmp_path, torch.float32)
    assert torch.equal(logits(again), logits(model))
    exact = SpatialVLA.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.allclose(logits(exact), logits(model.double()), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules_to_save": ("lm_heed",)}, r"ends in 'lm_heed', .*the closest are .*lm_head"),
        ({"modules_to_save": ("vision_zoe_model.neck",)}, "of ZoeDepth, which stays frozen"),
        ({"modules_to_save": ("multi_modal_projector",)}, "which LoRA adapts already"),
        ({"modules_to_save": ("lm_head",), "target": "linear+emb+h"}, "which LoRA adapts already"),
    ],
)
def test_modules_that_cannot_be_saved_whole(options, message):
    with pytest.raises(InputError, match=message):
        add_lora(SpatialVLA.from_pretrained(CHECKPOINT), CHECKPOINT, LoraOptions(**options))


def test_an_adapter_can_be_trained_on(saved):
    model, folder = saved
    again = load_unmerged(SpatialVLA, folder, torch.float32)
    assert torch.equal(logits(again), logits(model))
    assert [n for n, p in again.named_parameters() if p.requires_grad] == [
        n for n, p in model.named_parameters() if p.requires_grad
    ]


@pytest.mark.parametrize(
    ("bins", "options"),
    [
        (Bins(theta=3, phi=6, r=2, roll=3, pitch=3, yaw=3), OPTIONS),
        (processor.grid.bins, OPTIONS),
        (Bins(theta=3, phi=6, r=2, roll=3, pitch=3, yaw=3), LoraOptions(rank=2, target="linear+emb+h")),
    ],
)
def test_an_adapter_trained_on_another_grid_loads_onto_the_old_base(tmp_path, bins, options):
    grid = ActionGrid.uniform(bins)
    assert grid != processor.grid
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    regrid(model, processor.grid, grid)
    add_lora(model, CHECKPOINT, options)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    save_adapter(model, tmp_path)
    adapted_processor(processor, grid, processor.statistics, processor.cameras).save_pretrained(tmp_path)
    policy = Policy.from_pretrained(tmp_path, dataset="tiny_robot/0.1.0")
    merge_lora(model)
    assert policy.model.config == model.config == stored_config(tmp_path)
    state = model.state_dict()
    assert all(torch.allclose(t, state[n], atol=1e-6) for n, t in policy.model.state_dict().items())
    # Written once more, the adapter still says what its base needs.
    again = tmp_path / "again"
    save_adapter(load_unmerged(SpatialVLA, tmp_path, torch.float32), again)
    assert json.loads((again / "adapter_config.json").read_text())["spatialvla_regridded"] is True


def test_an_unmarked_adapter_of_another_grid_size_is_refused(saved):
    _, folder = saved
    grid = ActionGrid.uniform(Bins(theta=3, phi=6, r=2, roll=3, pitch=3, yaw=3))
    adapted_processor(processor, grid, processor.statistics, processor.cameras).save_pretrained(folder)
    assert "spatialvla_regridded" not in json.loads((folder / "adapter_config.json").read_text())
    with pytest.raises(CheckpointError, match=r"has 65 tokens, its base 194.*spatialvla_regridded"):
        SpatialVLA.from_pretrained(folder)


def test_bfloat16_adapters(tmp_path):
    save_adapter(trained(), tmp_path, torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.bfloat16}
    assert SpatialVLA.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_missing_tensors_and_bases_are_named(saved):
    _, folder = saved
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"adapter_model\.safetensors is missing, which SHA256SUMS lists"
    ):
        SpatialVLA.from_pretrained(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors does not exist"):
        SpatialVLA.from_pretrained(folder)
    key = "base_model.model.multi_modal_projector.linear.lora_B.weight"
    save_file({k: v for k, v in tensors.items() if k != key}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks the tensor .*linear\.lora_B"):
        SpatialVLA.from_pretrained(folder)
    save_file({**tensors, key: tensors[key][:-1].clone()}, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"linear\.lora_B\.weight .*\(95, 4\)"):
        SpatialVLA.from_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    gone = config | {"base_model_name_or_path": "no/such-base"}
    (folder / "adapter_config.json").write_text(json.dumps(gone))
    with pytest.raises(CheckpointError, match="no/such-base"):
        SpatialVLA.from_pretrained(folder)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(CheckpointError, match="no LoRA adapter"):
        SpatialVLA.from_pretrained(folder)


def test_the_base_is_named_so_that_it_is_found_from_anywhere(tmp_path, monkeypatch):
    shutil.copytree(CHECKPOINT, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    for base, name in (("base", str(tmp_path / "base")), ("nano", "nano"), ("some/hub-id", "some/hub-id")):
        model = SpatialVLA.from_pretrained(CHECKPOINT)
        add_lora(model, base)
        save_adapter(model, tmp_path / "adapter")
        config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == name


def test_an_adapter_knows_the_weights_that_it_was_trained_on(saved, tmp_path):
    """However they are split over files, and wherever they lie; older adapters, which do not tell, load as before."""
    _, folder = saved
    base, other = tmp_path / "base", tmp_path / "other"
    tensors = {key: tensor for _, key, tensor in read_tensors(CHECKPOINT)}
    bias = "multi_modal_projector.linear.bias"
    for path, bump in ((base, 0.0), (other, 0.1)):
        processor.save_pretrained(path)
        shutil.copy(CHECKPOINT / "config.json", path)
        write_tensors(tensors | {bias: tensors[bias] + bump}, path, max_shard_size=100_000)
    assert len(list(base.glob("*.safetensors"))) > 1
    expected = SpatialVLA.from_pretrained(folder).state_dict()
    found = SpatialVLA.from_pretrained(folder, base=base).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    message = rf"{other} holds other weights than those that {folder} was trained on; name the right .*base="
    with pytest.raises(CheckpointError, match=message):
        SpatialVLA.from_pretrained(folder, base=other)
    assert weights_digest(folder, base) == weights_digest(folder) != weights_digest(folder, other)
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"base_model_name_or_path": str(other)}))
    with pytest.raises(CheckpointError, match=message):
        SpatialVLA.from_pretrained(folder)
    (folder / "base_digest.json").unlink()
    SpatialVLA.from_pretrained(folder)


def test_requests_that_make_no_sense():
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    with pytest.raises(InputError, match="no LoRA adapter"):
        merge_lora(model)
    add_lora(model, CHECKPOINT)
    with pytest.raises(InputError, match="already"):
        add_lora(model, CHECKPOINT)
    with pytest.raises(InputError, match="rank"):
        LoraOptions(rank=0)


def test_without_peft_one_sentence_says_so(saved, monkeypatch):
    original = builtins.__import__

    def without_peft(name, *arguments, **options):
        if name == "peft":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_peft)
    with pytest.raises(InputError, match="LoRA needs peft"):
        SpatialVLA.from_pretrained(saved[1])
    SpatialVLA.from_pretrained(CHECKPOINT)
