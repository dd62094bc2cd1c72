"""Checkpoint folders: read whole or refused with one sentence, written back byte for byte."""

import json
import resource
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mutations import mutations
from spatialvla import Processor, SpatialVLA
from spatialvla.errors import CheckpointError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.folders import stored_dtype

CHECKPOINT = Path(__file__).parent.parent / "goldens" / "reference" / "checkpoint"


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def test_saves_the_published_layout_byte_for_byte(tmp_path):
    SpatialVLA.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    Processor.from_pretrained(CHECKPOINT).save_pretrained(tmp_path)
    before, after = load_file(CHECKPOINT / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    embeddings = "language_model.model.embed_tokens.weight"
    actions = len(before["spatial_embed_tokens.weight"])
    for key, tensor in before.items():
        if key == embeddings:
            assert torch.equal(after[key][:-actions], tensor[:-actions])
            assert torch.equal(after[key][-actions:], before["spatial_embed_tokens.weight"])
        else:
            assert torch.equal(after[key], tensor), key
            assert after[key].dtype == tensor.dtype
    again = SpatialVLA.from_pretrained(tmp_path).state_dict()
    assert all(
        torch.equal(again[k], v) for k, v in SpatialVLA.from_pretrained(CHECKPOINT).state_dict().items()
    )
    processor = Processor.from_pretrained(tmp_path)
    assert processor.grid == Processor.from_pretrained(CHECKPOINT).grid
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_loads_in_the_dtype_asked_for():
    model = SpatialVLA.from_pretrained(CHECKPOINT, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not model.training


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float32"}, torch.float32),
        ({}, None),
        ({"dtype": "load"}, None),
    ],
)
def test_says_what_weights_are_stored_in(tmp_path, said, dtype):
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert stored_dtype(tmp_path) == dtype


def test_depth_estimator_stays_frozen_and_in_eval_mode():
    model = SpatialVLA.from_pretrained(CHECKPOINT).train()
    assert model.vision_tower.training
    assert not any(module.training for module in model.vision_zoe_model.modules())
    assert not any(p.requires_grad for p in model.vision_zoe_model.parameters())


def change(folder: Path, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_extra_and_misshapen_tensors_are_named(copy):
    change(copy, lambda tensors: tensors.pop("multi_modal_projector.linear.bias"))
    with pytest.raises(CheckpointError, match=r"lacks the tensor multi_modal_projector\.linear\.bias"):
        SpatialVLA.from_pretrained(copy)
    change(copy, lambda tensors: tensors.update({"multi_modal_projector.linear.bias": torch.zeros(95)}))
    with pytest.raises(CheckpointError, match=r"multi_modal_projector\.linear\.bias .*\(95,\).*\(96,\)"):
        SpatialVLA.from_pretrained(copy)
    change(
        copy,
        lambda tensors: tensors.update(
            {"multi_modal_projector.linear.bias": torch.zeros(96), "surprise": torch.zeros(1)}
        ),
    )
    with pytest.raises(CheckpointError, match="does not have: surprise"):
        SpatialVLA.from_pretrained(copy)


def test_truncated_weights(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        SpatialVLA.from_pretrained(copy)


def test_missing_and_broken_files(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="only safetensors weights"):
        SpatialVLA.from_pretrained(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        SpatialVLA.from_pretrained(copy)
    (copy / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"processor_config\.json"):
        Processor.from_pretrained(copy)


def edit(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def nested_picture_settings(folder: Path) -> None:
    """As transformers 5 writes a processor: the image processor's settings inside its own file."""
    inner = json.loads((folder / "preprocessor_config.json").read_text())
    edit(folder / "processor_config.json", lambda content: content.update(image_processor=inner))
    (folder / "preprocessor_config.json").unlink()
    (folder / "special_tokens_map.json").unlink()


def test_a_folder_by_transformers_5_loads(copy, tmp_path):
    nested_picture_settings(copy)
    edit(
        copy / "config.json",
        lambda content: content["text_config"].update(rope_parameters={"rope_theta": 1e4}, dtype="bfloat16"),
    )
    written = (copy / "processor_config.json").read_text()
    processor = Processor.from_pretrained(copy)
    assert (processor.image_size, processor.image_token_num) == (56, 16)
    assert SpatialVLA.from_pretrained(copy).config.text == SpatialVLA.from_pretrained(CHECKPOINT).config.text
    processor.save_pretrained(tmp_path / "again")
    # Both kinds of reader find the settings of the image processor.
    assert json.loads((tmp_path / "again" / "processor_config.json").read_text()) == json.loads(written)
    settings = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert settings == json.loads((CHECKPOINT / "preprocessor_config.json").read_text())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda c: c.pop("vision_config"), r"config\.json lacks 'vision_config'"),
        ("config.json", lambda c: c.pop("text_config"), r"config\.json lacks 'text_config'"),
        ("config.json", lambda c: c.update(text_config=None), r"config\.json cannot be used"),
        ("config.json", lambda c: c.pop("image_token_index"), "cannot be used .*image_token_index"),
        ("config.json", lambda c: c.update(vision_config=3), r"config\.json cannot be used"),
        ("config.json", lambda c: c["vision_config"].update(hidden_size="x"), "cannot be used .*hidden_size"),
        ("processor_config.json", lambda c: c.pop("statistics"), "lacks 'statistics'"),
        ("processor_config.json", lambda c: c.update(statistics=[]), "cannot be used"),
        ("processor_config.json", lambda c: c.update(statistics={"a": {}}), "statistics cannot be read"),
        ("processor_config.json", lambda c: c.update(intrinsic_config={"default": 1}), "cannot be used"),
        ("processor_config.json", lambda c: c.pop("action_config"), "action_config"),
        ("processor_config.json", lambda c: c.update(action_chunk_size=None), "cannot be used"),
        ("preprocessor_config.json", lambda c: c.update(size=56), "cannot be used"),
        ("preprocessor_config.json", lambda c: c["size"].update(width=57), "^Images must be square"),
        ("preprocessor_config.json", lambda c: c.pop("image_seq_length"), "lacks 'image_seq_length'"),
        ("model.safetensors.index.json", lambda c: c.pop("weight_map"), "holds no weight_map"),
        ("model.safetensors.index.json", lambda c: c.update(weight_map=["a"]), "holds no weight_map"),
        ("model.safetensors.index.json", lambda c: c.update(weight_map={"a": "../b"}), "not in its folder"),
    ],
)
def test_broken_settings_end_in_one_sentence(copy, name, change, message):
    tensors = load_file(copy / "model.safetensors")
    weights = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (copy / "model.safetensors.index.json").write_text(json.dumps(weights))
    edit(copy / name, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        _ = SpatialVLA.from_pretrained(copy), Processor.from_pretrained(copy)
    assert "\n" not in str(raised.value)


def test_a_git_lfs_pointer_is_no_checkpoint(copy):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        SpatialVLA.from_pretrained(copy)


def test_another_kind_of_model_is_refused(copy):
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "paligemma"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="paligemma"):
        SpatialVLA.from_pretrained(copy)


def test_unknown_names_are_explained():
    with pytest.raises(CheckpointError, match="no/such-model"):
        SpatialVLA.from_pretrained("no/such-model")


def test_sharded_weights(copy):
    tensors = load_file(copy / "model.safetensors")
    keys = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": keys[:50], "model-00002-of-00002.safetensors": keys[50:]}
    for name, part in parts.items():
        save_file({key: tensors[key] for key in part}, copy / name)
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = SpatialVLA.from_pretrained(copy).state_dict()
    assert all(
        torch.equal(loaded[k], v) for k, v in SpatialVLA.from_pretrained(CHECKPOINT).state_dict().items()
    )
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        SpatialVLA.from_pretrained(copy)


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(CheckpointError, match="make room"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("text_config.hidden_size", 10**12),
        ("text_config.hidden_size", 2**31 - 1),
        ("text_config.num_hidden_layers", 10**9),
        ("text_config.num_hidden_layers", 900),
        ("text_config.num_hidden_layers", 0),
        ("text_config.intermediate_size", 2**30),
        ("text_config.vocab_size", 2**31),
        ("text_config.head_dim", -256),
        ("text_config.num_key_value_heads", 0),
        ("text_config.vocab_size", "many"),
        ("vision_config.hidden_size", 2**30),
        ("vision_config.num_hidden_layers", 10**7),
        ("vision_config.image_size", 2**30),
        ("vision_config.patch_size", 0),
        ("vision_zoe_config.fusion_hidden_size", 2**30),
        ("vision_zoe_config.backbone_config.hidden_size", 2**30),
        ("vision_zoe_config.backbone_config.num_hidden_layers", 10**6),
        ("vision_zoe_config.neck_hidden_sizes", [2**20] * 10**6),
        ("translation_token_num", 2**40),
        ("n_freqs", 10**9),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(copy, path, value):
    """Twice 100 MB, which none of these would fit into."""
    content = json.loads((copy / "config.json").read_text())
    *parents, last = path.split(".")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    (copy / "config.json").write_text(json.dumps(content))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(CheckpointError) as raised:
        SpatialVLA.from_pretrained(copy)
    assert "\n" not in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert time.monotonic() - start < 60


def test_absurd_sizes_of_the_processor(copy):
    edit(copy / "processor_config.json", lambda content: content.update(action_chunk_size=10**30))
    with pytest.raises(
        CheckpointError, match="action_chunk_size is 1000000000000000000000000000000, not 1 to"
    ):
        Processor.from_pretrained(copy)
    edit(copy / "processor_config.json", lambda content: content.update(action_chunk_size=4))
    edit(copy / "preprocessor_config.json", lambda content: content["size"].update(height=2**20, width=2**20))
    with pytest.raises(CheckpointError, match="image size is 1048576, not 1 to 4096"):
        Processor.from_pretrained(copy)


@pytest.mark.parametrize("name", ["config.json", "processor_config.json"])
def test_documents_of_another_kind_are_one_sentence(copy, name):
    file = copy / name
    content = json.loads(file.read_text())
    skip = ("statistics", "intrinsic_config", "bin_policy", "vision_zoe_config", "auto_map")
    for what, changed in mutations(content, skip):
        file.write_text(json.dumps(changed))
        try:
            if name == "config.json":
                SpatialVLAConfig.from_folder(copy)
            else:
                Processor.from_pretrained(copy)
        except CheckpointError as error:
            sentence = str(error)
            assert "\n" not in sentence, what
