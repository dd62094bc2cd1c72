"""Tokenizers: a small one of our own, made from robot instructions, and action tokens behind any."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from spatialvla.errors import CheckpointError, InputError

_ACTION = re.compile(r"<ACTION\d{5}>")
SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>")


def train_tokenizer(texts: Iterable[str], text_vocab_size: int, action_tokens: int) -> Tokenizer:
    """A byte-level BPE over `texts`: any text can be encoded, frequent words become one token.

    The vocabulary has exactly `text_vocab_size` entries (special tokens first, then a newline, bytes and
    merges; entries that the texts do not fill are reserved), then `action_tokens` action tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=text_vocab_size - 1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    filled = tokenizer.get_vocab_size() + 1
    if filled > text_vocab_size:
        raise InputError(f"The text vocabulary needs at least {filled} entries, got {text_vocab_size}.")
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])
    tokenizer.add_tokens([f"<reserved{index}>" for index in range(text_vocab_size - filled)])
    tokenizer.add_special_tokens([action_token(number) for number in range(action_tokens)])
    return tokenizer


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer.json of a checkpoint's folder. Raises CheckpointError where it is missing or broken."""
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise CheckpointError(f"{path} cannot be read ({error}).") from None


def action_token(number: int) -> str:
    """What an action token is called in the published tokenizers."""
    return f"<ACTION{number:05d}>"


def with_action_tokens(tokenizer: Tokenizer, action_tokens: int) -> Tokenizer:
    """A copy whose vocabulary ends with so many action tokens, in the place of those it had.

    Raises CheckpointError where other tokens come behind them.
    """
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [
        token for token in content["added_tokens"] if not _ACTION.fullmatch(token["content"])
    ]
    copy = Tokenizer.from_str(json.dumps(content))
    copy.add_special_tokens([action_token(number) for number in range(action_tokens)])
    end = copy.get_vocab_size()
    ids = [copy.token_to_id(action_token(number)) for number in (0, action_tokens - 1)]
    if ids != [end - action_tokens, end - 1]:
        raise CheckpointError(
            f"The tokenizer of {end} entries gives its action tokens the ids {ids[0]} to {ids[1]}; they have "
            "to end the vocabulary."
        )
    return copy


def settings_with_action_tokens(
    files: Mapping[str, Mapping[str, Any]], first: int, action_tokens: int
) -> dict[str, Mapping[str, Any]]:
    """The settings beside tokenizer.json, whose list of added tokens agrees with `with_action_tokens`."""
    changed = dict(files)
    settings = changed.get("tokenizer_config.json", {})
    if "added_tokens_decoder" in settings:
        listed = settings["added_tokens_decoder"]
        kept = {k: v for k, v in listed.items() if not _ACTION.fullmatch(v["content"])}
        flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        added = {str(first + n): {"content": action_token(n), **flags} for n in range(action_tokens)}
        changed["tokenizer_config.json"] = {**settings, "added_tokens_decoder": {**kept, **added}}
    return changed


def hugging_face_files(image_size: int, image_token_num: int) -> Mapping[str, Mapping[str, Any]]:
    """The settings other tools expect beside tokenizer.json, in the published layout."""
    return {
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
        },
        "special_tokens_map.json": {
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        },
        "preprocessor_config.json": {
            "image_processor_type": "SiglipImageProcessor",
            "do_normalize": False,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_seq_length": image_token_num,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": image_size, "width": image_size},
        },
    }
