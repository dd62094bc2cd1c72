"""What `inference.py` compares with: decoding the plain way, as the published code and Hugging Face do it.

Depth first, then SigLIP, then the prompt, then a token a pass: modules called one by one without compiling, a
cache that grows by concatenation, logits over the whole vocabulary in float32 for every token, and a last
pass to find <eos>. The peer pays for its choice over the whole vocabulary, but goes on with the best token of
the kind that belongs there: random weights would otherwise say words, and what the two say could not be
compared.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from spatialvla.batch import Batch
from spatialvla.model.fast.options import Optimization
from spatialvla.model.network import token_positions
from spatialvla.model.spatialvla import SpatialVLA

Stage = Callable[[str], None]


class GrowingLayer:
    """The keys and values that one layer has seen so far; every update copies them all."""

    def __init__(self) -> None:
        self.seen: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, k: torch.Tensor, v: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.seen is not None:
            k, v = torch.cat([self.seen[0], k], dim=2), torch.cat([self.seen[1], v], dim=2)
        self.seen = (k, v)
        return k, v


class GrowingCache:
    """A growing cache a layer."""

    def __init__(self) -> None:
        self.layers: defaultdict[int, GrowingLayer] = defaultdict(GrowingLayer)

    def layer(self, index: int) -> GrowingLayer:
        return self.layers[index]


def pair(model: SpatialVLA, options: Optimization) -> tuple[SpatialVLA, SpatialVLA]:
    """The peer's model and ours, over the same weights in memory, apart from those that ours keeps in another form."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return model, copy.deepcopy(model, shared).optimize(options)


@torch.no_grad()
def peer_chunk(model: SpatialVLA, batch: Batch, done: Stage = lambda stage: None) -> torch.Tensor:
    """(B, 3 * chunk) vocabulary ids. done: called with the name of each stage when it is over."""
    depth = model.depth(batch)
    done("depth")
    embedded = model.embed(Batch(**{**vars(batch), "depth": depth}))
    done("siglip")
    cache: Any = GrowingCache()
    mask, steps = batch.attention_mask, 3 * model.config.action_chunk_size
    length = mask.shape[1]
    visible = mask[:, None, :].expand(-1, length, -1)
    places = torch.arange(length, device=mask.device)
    hidden = model.language_model.model(embedded, token_positions(mask), visible, cache, places)
    # With the strides of the whole sequence, a bfloat16 product on a CPU takes 40 times as long.
    hidden = hidden[:, -1:].clone(memory_format=torch.contiguous_format)
    tokens: list[torch.Tensor] = []
    for step in range(steps + 1):
        logits = model.language_model.logits(hidden)
        chosen = logits.argmax(dim=-1)
        if step == steps:
            done("decode")
            return torch.cat(tokens, dim=1)
        rows = model.config.grammar[step % 3]
        chosen = rows.start + logits[..., rows].argmax(dim=-1)
        tokens.append(chosen)
        if step == 0:
            done("prefill")
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position = token_positions(mask)[:, -1:]
        places = torch.full((1,), length + step, device=mask.device)
        hidden = model.language_model.model(
            model.embed_tokens(chosen), position, mask[:, None, :], cache, places
        )
    raise AssertionError("unreachable")
