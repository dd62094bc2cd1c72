"""Adapters written by the published fine-tuning code: the same logits, whatever its options were."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from spatialvla import Policy, Processor, SpatialVLA
from spatialvla.cli.main import main
from spatialvla.errors import CheckpointError, InputError
from spatialvla.evaluation.results.provenance import hash_checkpoint
from spatialvla.model.folders import stored_dtype
from spatialvla.model.loading import load_unmerged, stored_config
from spatialvla.model.lora import save_adapter
from spatialvla.training.checkpoints.export import export
from spatialvla.training.recipes import finetune
from spatialvla.training.start.build import network_config

GOLDENS = Path(__file__).parent.parent / "goldens"
CHECKPOINT = GOLDENS / "reference" / "checkpoint"
PICTURE = GOLDENS / "reference" / "images" / "img3_224x224.png"
HEAD = "base_model.model.language_model.lm_head.base_layer.weight"
NAMES = ("adapt_emb", "adapt_emb_adpt_feature", "linear_emb_h", "modules_to_save")
ACTIONS = 194


@pytest.fixture
def adapter(tmp_path):
    """An adapter's folder, with what the goldens leave out because the base has it, too."""

    def make(name: str) -> Path:
        folder = Path(shutil.copytree(GOLDENS / "published_adapters" / name, tmp_path / "runs" / name))
        for file in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
            shutil.copy(CHECKPOINT / file, folder)
        if name == "linear_emb_h":
            add_head(folder, load_file(CHECKPOINT / "model.safetensors")["language_model.lm_head.weight"])
        return folder

    return make


def add_head(folder: Path, head: torch.Tensor) -> None:
    """What peft saves beside an adapter of the head: the head of the base."""
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, HEAD: head}, folder / "adapter_model.safetensors")


@torch.no_grad()
def assert_published_logits(model: SpatialVLA, folder: Path) -> None:
    batch = Processor.from_pretrained(folder)([Image.open(PICTURE).convert("RGB")], ["pick up the cup"])
    logits, expected = model.eval()(batch).logits[:, -8:].numpy(), np.load(folder / "logits.npy")
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))


def action_rows(model: SpatialVLA) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the embeddings and of the head."""
    return model.spatial_embed_tokens.weight, model.language_model.lm_head.weight[-ACTIONS:]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_published_ones(adapter, name):
    folder = adapter(name)
    assert_published_logits(SpatialVLA.from_pretrained(folder, base=CHECKPOINT), folder)
    assert_published_logits(load_unmerged(SpatialVLA, folder, torch.float32, base=CHECKPOINT), folder)
    Policy.from_pretrained(folder, dataset="tiny_robot/0.1.0", base=CHECKPOINT)


@pytest.mark.parametrize("name", ["adapt_emb", "adapt_emb_adpt_feature"])
def test_adapted_bin_edges_leave_the_head_as_it_is(adapter, name):
    folder = adapter(name)
    base, model = SpatialVLA.from_pretrained(CHECKPOINT), SpatialVLA.from_pretrained(folder, base=CHECKPOINT)
    assert Processor.from_pretrained(folder).grid != Processor.from_pretrained(CHECKPOINT).grid
    (embeddings, head), (embeddings_before, head_before) = action_rows(model), action_rows(base)
    assert torch.equal(head, head_before)
    stored = load_file(folder / "adapter_model.safetensors").get(
        "base_model.model.spatial_embed_tokens.weight"
    )
    assert torch.equal(embeddings, embeddings_before if stored is None else stored)
    assert torch.equal(embeddings, embeddings_before) == (name == "adapt_emb")


def test_an_adapter_of_the_head_is_trained_on_and_written_as_it_was(adapter, tmp_path):
    folder = adapter("linear_emb_h")
    model = load_unmerged(SpatialVLA, folder, torch.float32, base=CHECKPOINT)
    save_adapter(model, tmp_path / "again")
    before, after = (load_file(path / "adapter_model.safetensors") for path in (folder, tmp_path / "again"))
    assert before.keys() - {HEAD} == after.keys()
    assert all(torch.equal(before[key], tensor) for key, tensor in after.items())
    processor = Processor.from_pretrained(folder)
    image, actions = Image.open(PICTURE).convert("RGB"), np.full((1, processor.action_chunk_size, 7), 0.01)
    batch = processor([image], ["pick up the cup"], "tiny_robot/0.1.0", actions=actions)
    merged = SpatialVLA.from_pretrained(folder, base=CHECKPOINT)
    output = model.train().training_loss(batch)
    assert torch.allclose(output.loss, merged.training_loss(batch).loss, atol=1e-5)
    output.loss.backward()
    adapted = {name: p.grad for name, p in model.named_parameters() if "lm_head.lora_" in name}
    assert len(adapted) == 2
    assert all(gradient.abs().sum() > 0 for gradient in adapted.values())


def test_an_adapter_of_the_head_is_refused_on_another_base(adapter, tmp_path):
    folder = adapter("linear_emb_h")
    other = SpatialVLA.from_pretrained(CHECKPOINT)
    with torch.no_grad():
        other.language_model.lm_head.weight[5, 7] += 0.1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(
        CheckpointError, match=r"belongs to another base, whose language_model\.lm_head\.weight"
    ):
        SpatialVLA.from_pretrained(folder, base=tmp_path / "other")
    # Rounding alone is no difference.
    add_head(folder, load_file(CHECKPOINT / "model.safetensors")["language_model.lm_head.weight"].bfloat16())
    assert_published_logits(SpatialVLA.from_pretrained(folder, base=CHECKPOINT), folder)
    SpatialVLA.from_pretrained(folder, dtype=torch.bfloat16, base=CHECKPOINT)


def test_a_base_is_found_from_the_working_directory_and_from_the_adapter(adapter, tmp_path, monkeypatch):
    folder = adapter("modules_to_save")
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    shutil.copytree(CHECKPOINT, tmp_path / "pretrained" / "tiny56")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_published_logits(SpatialVLA.from_pretrained(folder), folder)
    monkeypatch.chdir(tmp_path / "elsewhere" / "deep")
    with pytest.raises(
        CheckpointError, match=r"adapter_config\.json names the base \.\./pretrained/tiny56, .*--base"
    ):
        SpatialVLA.from_pretrained(folder)
    shutil.move(tmp_path / "pretrained", folder.parent)
    assert_published_logits(SpatialVLA.from_pretrained(folder), folder)


def test_bases_that_make_no_sense(adapter):
    folder = adapter("modules_to_save")
    with pytest.raises(InputError, match="whole checkpoint, which has no base"):
        SpatialVLA.from_pretrained(CHECKPOINT, base=CHECKPOINT)
    with pytest.raises(CheckpointError, match=r"names its own folder as the base; .*--base"):
        SpatialVLA.from_pretrained(folder, base=folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match=r"names no base; .*--base"):
        SpatialVLA.from_pretrained(folder)


def test_export_with_a_named_base(adapter, tmp_path):
    folder = adapter("linear_emb_h")
    export(folder, tmp_path / "merged", base=CHECKPOINT, merge=True)
    export(folder, tmp_path / "adapter", base=CHECKPOINT)
    for out in ("merged", "adapter"):
        shutil.copy(folder / "logits.npy", tmp_path / out)
        assert_published_logits(SpatialVLA.from_pretrained(tmp_path / out), tmp_path / out)


def test_fine_tuning_goes_on_from_an_adapter_or_says_how(adapter):
    folder = adapter("adapt_emb")
    start = {"policy": str(folder), "base": str(CHECKPOINT)}
    config = network_config(replace(finetune("full"), **start))
    assert config == stored_config(CHECKPOINT) == SpatialVLA.from_pretrained(folder, base=CHECKPOINT).config
    with pytest.raises(InputError, match=r"is an adapter.*spatialvla export --policy .* --merge --out"):
        network_config(replace(finetune("lora"), **start))


def test_an_adapter_is_stored_in_its_bases_precision_and_known_by_its_base(adapter, tmp_path):
    folder = adapter("adapt_emb")
    assert stored_dtype(folder, CHECKPOINT) == stored_dtype(CHECKPOINT)
    other = shutil.copytree(CHECKPOINT, tmp_path / "other")
    (other / "generation_config.json").unlink()
    assert hash_checkpoint(folder, CHECKPOINT) != hash_checkpoint(folder, other)


def test_the_command_line_takes_a_base(adapter, capsys):
    words = ["predict", str(PICTURE), "pick up the cup", "--dataset", "tiny_robot/0.1.0", "--device", "cpu"]
    main([*words, "--policy", str(adapter("adapt_emb")), "--base", str(CHECKPOINT)])
    assert "gripper" in capsys.readouterr().out
