"""A model's action embeddings and head, carried over to another action grid."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from spatialvla.actions.embeddings import adapt_embeddings
from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import CheckpointError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.network import Network
from spatialvla.model.published import mirror_action_embeddings


@torch.no_grad()
def regrid(network: Network, old: ActionGrid, new: ActionGrid) -> None:
    """Lets a network that spoke of cells of `old` speak of those of `new`. Nothing else is touched.

    What a token means as input (`spatial_embed_tokens`) and what it scores as output (its row of the head)
    are both functions of where its cell lies, so both are resampled at the new cells' centers; logits, linear
    in the rows, are thereby interpolated between those of neighboring cells. The published code resamples the
    inputs alone, after which the head still scores the old cells. With other bin counts the vocabulary and
    `network.config` change. Raises CheckpointError where `old` is not the network's grid,
    and for a network in 4 bits.
    """
    config = network.config
    sizes = (config.translation_token_num, config.rotation_token_num)
    if config.quantization is not None:
        raise CheckpointError(
            "The model's weights are in 4 bits, for which no other grid can be trained; take the checkpoint that "
            "it was made of."
        )
    if (old.n_translation, old.n_rotation) != sizes:
        raise CheckpointError(
            f"The model has {sizes[0]} translation and {sizes[1]} rotation tokens, the grid "
            f"{old.n_translation} and {old.n_rotation}; they do not belong together."
        )
    first = config.action_token_begin_idx
    vocabulary = first + new.size
    decoder, head = network.language_model.model, network.language_model.lm_head
    _set_rows(network.spatial_embed_tokens, 0, _resampled(network.spatial_embed_tokens.weight, old, new))
    _set_rows(head, first, _resampled(head.weight[first:], old, new))
    _resize(decoder.embed_tokens, vocabulary)
    mirror_action_embeddings(network)
    network.config = regridded_config(config, new)
    decoder.config = network.config.text
    network.regridded = True


def regridded_config(config: SpatialVLAConfig, grid: ActionGrid) -> SpatialVLAConfig:
    """The configuration of a network that was carried over to `grid`."""
    vocabulary = config.action_token_begin_idx + grid.size
    # Published files repeat the sizes in keys that nothing reads.
    repeated = {"_vocab_size": vocabulary, "spatial_token_num": grid.size}
    return config.replace(
        text=replace(config.text, vocab_size=vocabulary),
        translation_token_num=grid.n_translation,
        rotation_token_num=grid.n_rotation,
        extra={key: repeated.get(key, value) for key, value in config.extra.items()},
    )


def _resampled(rows: torch.Tensor, old: ActionGrid, new: ActionGrid) -> torch.Tensor:
    adapted = adapt_embeddings(rows.detach().float().cpu().numpy(), old, new)
    return torch.from_numpy(adapted).to(rows)


def _set_rows(module: nn.Embedding | nn.Linear, first: int, rows: torch.Tensor) -> None:
    """Overwrites the rows from `first` on, in place where their number stays."""
    _resize(module, first + len(rows))
    module.weight[first:] = rows


def _resize(module: nn.Embedding | nn.Linear, count: int) -> None:
    """Gives the module `count` rows: the first ones are kept, any new ones are left to be written."""
    weight = module.weight
    if len(weight) == count:
        return
    kept = weight[:count]
    rows = torch.cat([kept, weight.new_empty(count - len(kept), weight.shape[1])])
    module.weight = nn.Parameter(rows, requires_grad=weight.requires_grad)
    if isinstance(module, nn.Embedding):
        module.num_embeddings = count
    else:
        module.out_features = count
