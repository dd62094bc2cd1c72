"""A model's action embeddings and head, carried over to another action grid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from spatialvla.actions.embeddings import adapt_embeddings
from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import CheckpointError
from spatialvla.model.checkpoint import mirror_action_embeddings

if TYPE_CHECKING:
    from spatialvla.model.spatialvla import SpatialVLA


@torch.no_grad()
def regrid(model: SpatialVLA, old: ActionGrid, new: ActionGrid) -> None:
    """Changes the model, which spoke of cells of `old`, to speak of those of `new`. Nothing else is touched.

    Both what a token means as input (`spatial_embed_tokens`) and what it scores as output (its row of the head)
    are functions of its cell's place, so both are resampled at the new cells' centres; logits, linear in the
    rows, are thereby interpolated between those of neighbouring cells. The published code resamples the
    inputs alone, after which the head still scores the old cells. With other bin counts the vocabulary and
    `model.config` change.
    Raises CheckpointError where `old` is not the model's grid.
    """
    config = model.config
    sizes = (config.translation_token_num, config.rotation_token_num)
    if (old.n_translation, old.n_rotation) != sizes:
        raise CheckpointError(
            f"The model has {sizes[0]} translation and {sizes[1]} rotation tokens, the grid {old.n_translation} "
            f"and {old.n_rotation}; they do not belong together."
        )
    first = config.action_token_begin_idx
    decoder, head = model.language_model.model, model.language_model.lm_head
    _set_rows(model.spatial_embed_tokens, 0, _resampled(model.spatial_embed_tokens.weight, old, new))
    _set_rows(head, first, _resampled(head.weight[first:], old, new))
    _set_rows(decoder.embed_tokens, first, model.spatial_embed_tokens.weight)
    vocabulary = first + new.size
    # Published files repeat the sizes in keys that nothing reads.
    repeated = {"_vocab_size": vocabulary, "spatial_token_num": new.size}
    extra = {key: repeated.get(key, value) for key, value in config.extra.items()}
    model.config = config.replace(
        text=replace(config.text, vocab_size=vocabulary),
        translation_token_num=new.n_translation,
        rotation_token_num=new.n_rotation,
        extra=extra,
    )
    decoder.config = model.config.text
    mirror_action_embeddings(model)


def _resampled(rows: torch.Tensor, old: ActionGrid, new: ActionGrid) -> torch.Tensor:
    adapted = adapt_embeddings(rows.detach().float().cpu().numpy(), old, new)
    return torch.from_numpy(adapted).to(rows)


def _set_rows(module: nn.Embedding | nn.Linear, first: int, rows: torch.Tensor) -> None:
    """Overwrites the rows from `first` on, in place where their number stays."""
    weight = module.weight
    count = first + len(rows)
    if len(weight) == count:
        weight[first:] = rows
        return
    module.weight = nn.Parameter(torch.cat([weight[:first], rows]), requires_grad=weight.requires_grad)
    if isinstance(module, nn.Embedding):
        module.num_embeddings = count
    else:
        module.out_features = count
