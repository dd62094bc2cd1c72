"""Checksums beside checkpoints: every flipped byte is seen and its file named, and folders without them load."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from spatialvla import Processor, SpatialVLA
from spatialvla.common.manifest import MANIFEST
from spatialvla.errors import CheckpointError
from spatialvla.model.folders import SHIPPED, resolve_folder
from spatialvla.model.lora import ADAPTER, TENSORS, add_lora, save_adapter, stored_lora
from spatialvla.model.weights import read_file, read_tensors

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
DOCUMENTS = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    SpatialVLA.from_pretrained(CHECKPOINT).save_pretrained(folder, max_shard_size="300KB")
    Processor.from_pretrained(CHECKPOINT).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("adapter")
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    add_lora(model, CHECKPOINT)
    save_adapter(model, folder)
    Processor.from_pretrained(CHECKPOINT).save_pretrained(folder)
    return folder


def flips(path: Path, count: int):
    """Damages a file in one byte, again and again."""
    whole, draw = path.read_bytes(), random.Random(path.name)
    for position in sorted(draw.sample(range(len(whole)), min(count, len(whole)))):
        path.write_bytes(
            whole[:position] + bytes([whole[position] ^ draw.randrange(1, 256)]) + whole[position + 1 :]
        )
        yield position
    path.write_bytes(whole)


def read_all(folder: Path) -> None:
    for _ in read_tensors(resolve_folder(folder)):
        pass


@pytest.mark.parametrize("name", [*DOCUMENTS, "tokenizer_config.json", "model.safetensors.index.json"])
def test_flips_in_documents_are_seen(copy, name):
    for position in flips(copy / name, 20):
        with pytest.raises(
            CheckpointError, match=f"{name} has other contents than {MANIFEST} beside it says"
        ):
            resolve_folder(copy)
        assert position >= 0
    resolve_folder(copy)


def test_flips_in_weights_are_seen(copy):
    shards = sorted(copy.glob("*.safetensors"))
    assert len(shards) > 1
    for shard in shards:
        for _ in flips(shard, 20):
            with pytest.raises(CheckpointError, match=shard.name):
                read_all(copy)
    read_all(copy)


def test_flips_in_the_manifest_are_seen(copy):
    for _ in flips(copy / MANIFEST, 200):
        with pytest.raises(CheckpointError, match=r"SHA256SUMS|other contents"):
            read_all(copy)


def test_a_damaged_checkpoint_is_not_loaded(copy):
    shard = min(copy.glob("*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{shard.name} has other contents"):
        SpatialVLA.from_pretrained(copy)
    (copy / "processor_config.json").write_text((copy / "processor_config.json").read_text() + " ")
    with pytest.raises(CheckpointError, match=r"processor_config\.json has other contents"):
        Processor.from_pretrained(copy)


def test_a_missing_file_is_named(copy):
    (copy / "special_tokens_map.json").unlink()
    with pytest.raises(CheckpointError, match=r"special_tokens_map\.json is missing, which SHA256SUMS lists"):
        resolve_folder(copy)


def test_the_manifest_is_what_sha256sum_checks(saved):
    for folder in (saved, SHIPPED / "nano", SHIPPED / "nano-wrist"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", MANIFEST], cwd=folder, check=True)
        listed = {line.split()[1] for line in (folder / MANIFEST).read_text().splitlines()}
        assert listed == {path.name for path in folder.iterdir()} - {MANIFEST, "README.md"}


def test_files_that_are_written_anew_are_known_anew(copy):
    model = SpatialVLA.from_pretrained(copy)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(copy)  # in one file now
    assert not list(copy.glob("model-*"))
    torch.testing.assert_close(
        next(SpatialVLA.from_pretrained(copy).parameters()), next(model.parameters()), rtol=0, atol=0
    )
    Processor.from_pretrained(copy)


def test_a_save_that_is_broken_off_leaves_no_checksum_of_something_else(copy, monkeypatch):
    def broken(*_, **__):
        raise OSError("stop")

    model = SpatialVLA.from_pretrained(copy)
    monkeypatch.setattr("spatialvla.model.spatialvla.write_json", broken)
    with pytest.raises(OSError, match="stop"):
        model.save_pretrained(copy)
    monkeypatch.undo()
    assert "config.json" not in (copy / MANIFEST).read_text().split()
    SpatialVLA.from_pretrained(copy)


def test_folders_without_a_manifest_load_as_before(copy):
    (copy / MANIFEST).unlink()
    for _ in flips(copy / "tokenizer_config.json", 1):
        resolve_folder(copy)
    SpatialVLA.from_pretrained(copy)


def test_flips_in_adapters_are_seen(adapter, tmp_path):
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    for _ in flips(copy / TENSORS, 40):
        with pytest.raises(CheckpointError, match=TENSORS):
            list(read_file(copy / TENSORS))
    SpatialVLA.from_pretrained(copy)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"lora_alpha": 33}, True),
        ({"r": 1}, True),
        ({"base_model_name_or_path": "nano"}, False),
        ({"new": 1}, False),
    ],
)
def test_an_adapters_settings_are_those_it_was_trained_with(adapter, tmp_path, change, refused):
    """The base may move, and a later peft may add entries; what shapes the adapter stays."""
    copy = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    (copy / ADAPTER).write_text(json.dumps(json.loads((copy / ADAPTER).read_text()) | change))
    if not refused:
        assert stored_lora(copy).r == 32
        return
    with pytest.raises(
        CheckpointError, match=rf"says {next(iter(change))}: .*, but {TENSORS} was trained with"
    ):
        stored_lora(copy)
