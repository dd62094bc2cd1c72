"""The model to pre-train: PaliGemma 2 and ZoeDepth from their published folders, with action tokens appended.

New weights are initialized as in the published train/spatialvla_pretrain.py. It resizes the tied embedding to
the tokenizer with its action tokens, overwrites all rows of action tokens with the mean of the rows before
them (rows that PaliGemma only keeps as padding behind its tokenizer's last entry are among the overwritten),
copies the result to an untied head, and the action rows to `spatial_embed_tokens`. Ego3D's MLP is
Xavier-uniform with gain 0.01.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from spatialvla.actions.bins import Bins
from spatialvla.common.json_files import read_json
from spatialvla.errors import CheckpointError
from spatialvla.model.config import Gemma2Config, SpatialVLAConfig
from spatialvla.model.folders import resolve_folder
from spatialvla.model.published import empty_network, published_name, published_tensors
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.model.weights import Filling, read_tensors
from spatialvla.tokenizer import read_tokenizer
from spatialvla.vision.ego3d import Ego3DPositionEncoding

PUBLISHED_BINS = Bins()
EMBEDDINGS = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"
SPATIAL = "spatial_embed_tokens.weight"

# transformers 4.52 moved the parts below `model.`, and 5.5 writes one `model.` too many for the decoder's;
# files of each kind are around.
_OTHER_NAMES = [
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^language_model\.model\.model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
]
_RECORDS = ("architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path")


def initial_model(
    paligemma: str | Path,
    zoedepth: str | Path,
    *,
    bins: Bins = PUBLISHED_BINS,
    action_chunk_size: int = 4,
    dtype: torch.dtype = torch.float32,
) -> SpatialVLA:
    """A model to pre-train. paligemma, zoedepth: folders or Hub ids; bins: of the action grid to come.

    Ego3D's weights are drawn from torch's global generator; everything else is determined.
    Raises CheckpointError where a file is missing, or a tensor is missing, extra or misshapen.
    """
    language, depth = resolve_folder(paligemma), resolve_folder(zoedepth)
    config = initial_config(language, depth, bins, action_chunk_size)
    model = empty_network(SpatialVLA, config, dtype)
    targets = {
        k: t for k, t in published_tensors(model).items() if not k.startswith("position_embedding_3d.")
    }
    actions = targets.pop(SPATIAL)
    text = {key: targets[key][: config.action_token_begin_idx] for key in (EMBEDDINGS, HEAD)}
    filling = Filling(targets | text)
    for file, key, tensor in read_tensors(language):
        name = paligemma_name(key)
        filling.take(file, name, _text_rows(tensor, text[name], file) if name in text else tensor)
    for file, key, tensor in read_tensors(depth):
        # A buffer that old versions saved; it follows from the size of the image.
        if not key.endswith("relative_position_index"):
            filling.take(file, published_name(f"vision_zoe_model.{key}"), tensor)
    if HEAD in filling.missing:  # PaliGemma ties it to its embeddings
        filling.take(language, HEAD, text[EMBEDDINGS])
    filling.finish(language if any("zoe" not in key for key in filling.missing) else depth)
    with torch.no_grad():
        for key, rows in text.items():
            targets[key][len(rows) :] = rows.mean(dim=0, dtype=torch.float32).to(dtype)
        actions.copy_(targets[EMBEDDINGS][-len(actions) :])
    encoding = Ego3DPositionEncoding(config.ego3d_patch_reso**2, config.n_freqs, config.siglip.hidden_size)
    model.position_embedding_3d.load_state_dict(encoding.state_dict())
    return model


def initial_config(
    paligemma: Path, zoedepth: Path, bins: Bins = PUBLISHED_BINS, action_chunk_size: int = 4
) -> SpatialVLAConfig:
    """The configuration of an initial model. Raises CheckpointError where a folder holds another kind."""
    raw, depth = read_json(paligemma / "config.json"), read_json(zoedepth / "config.json")
    text = dict(raw.get("text_config", {}))
    kinds = (raw.get("model_type"), text.get("model_type"), depth.get("model_type"))
    if kinds != ("paligemma", "gemma2", "zoedepth"):
        raise CheckpointError(
            f"Pre-training starts from PaliGemma 2 and ZoeDepth folders, but {paligemma} is a {kinds[0]!r} "
            f"over {kinds[1]!r}, {zoedepth} a {kinds[2]!r}."
        )
    tokenizer = read_tokenizer(paligemma)
    ids = {token: tokenizer.token_to_id(token) or 0 for token in ("<image>", "<pad>", "<eos>", "<bos>")}
    image = raw.get("image_token_id", raw.get("image_token_index"))
    if len(set(ids.values())) < len(ids) or ids["<image>"] != image:
        raise CheckpointError(
            f"The tokenizer in {paligemma} does not belong to its config.json: it has {ids}, where the image "
            f"token should be {image}."
        )
    text["rope_theta"] = text.get("rope_parameters", text).get("rope_theta", Gemma2Config.rope_theta)
    known = {field.name for field in fields(Gemma2Config)}
    translation, rotation = bins.theta * bins.phi * bins.r, bins.roll * bins.pitch * bins.yaw
    first = tokenizer.get_vocab_size()
    return SpatialVLAConfig(
        text=Gemma2Config(
            **{k: v for k, v in text.items() if k in known and k != "vocab_size"},
            vocab_size=first + translation + rotation + 2,
        ),
        vision=_without_records(raw["vision_config"]),
        depth=_without_records(depth),
        image_token_index=ids["<image>"],
        action_token_begin_idx=first,
        translation_token_num=translation,
        rotation_token_num=rotation,
        action_chunk_size=action_chunk_size,
        pad_token_id=ids["<pad>"],
        eos_token_id=ids["<eos>"],
        bos_token_id=ids["<bos>"],
    )


def paligemma_name(key: str) -> str:
    """The name in our checkpoints of a tensor of PaliGemma's, as any version of transformers saves it."""
    for pattern, replacement in _OTHER_NAMES:
        key = re.sub(pattern, replacement, key)
    return published_name(key)


def _text_rows(tensor: torch.Tensor, target: torch.Tensor, file: Path) -> torch.Tensor:
    if tensor.ndim != 2 or len(tensor) < len(target):
        raise CheckpointError(
            f"The embeddings in {file} have shape {tuple(tensor.shape)}, too few rows for a tokenizer of "
            f"{len(target)} entries."
        )
    return tensor[: len(target)]


def _without_records(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what only tells of the file it came from."""
    return {k: v for k, v in config.items() if k not in _RECORDS}
