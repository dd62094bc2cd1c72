"""Turning logits into action tokens: one prefill, then one decode step a token, over a static KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spatialvla.errors import InputError
from spatialvla.model.gemma2 import KVCache
from spatialvla.types import Batch

if TYPE_CHECKING:
    from spatialvla.model.spatialvla import SpatialVLA


@torch.no_grad()
def generate(
    model: SpatialVLA,
    batch: Batch,
    constrained: bool,
    max_new_tokens: int | None,
    temperature: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """See `SpatialVLA.generate`."""
    chunk_tokens = 3 * model.config.action_chunk_size
    if constrained and max_new_tokens is not None:
        raise InputError("A constrained chunk always has 3 tokens a step; leave max_new_tokens out.")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    if not temperature >= 0:
        raise InputError(f"temperature must be 0 or more, got {temperature}.")
    if batch.labels is not None:
        raise InputError("This batch has labels; generate from one that was made without actions=.")
    if not bool(batch.attention_mask[:, -1].all()):
        raise InputError("Prompts must be padded on the left to generate.")
    steps = chunk_tokens if constrained or max_new_tokens is None else max_new_tokens

    length = batch.input_ids.shape[1]
    cache = KVCache.allocate(model.config.text, len(batch), length + steps - 1, model.device, model.dtype)
    hidden = model.hidden_states(batch, "prefix", cache)[:, -1]
    attended = torch.ones(len(batch), length + steps - 1, dtype=torch.bool, device=model.device)
    attended[:, :length] = batch.attention_mask
    prompt_length = batch.attention_mask.sum(dim=1, keepdim=True)

    tokens = torch.full((len(batch), steps), model.config.pad_token_id, device=model.device)
    running = torch.ones(len(batch), dtype=torch.bool, device=model.device)
    for step in range(steps):
        # The grammar: step 3k is a translation, 3k+1 a rotation, 3k+2 a gripper token; only its rows are computed.
        rows = model.config.grammar[step % 3] if constrained else slice(0, model.config.text.vocab_size)
        chosen = rows.start + _choose(model.language_model.logits(hidden, rows), temperature, generator)
        tokens[:, step] = torch.where(running, chosen, model.config.pad_token_id)
        if not constrained:
            running &= chosen != model.config.eos_token_id
            if not bool(running.any()):
                return tokens[:, : step + 1]
        if step + 1 < steps:
            hidden = model.language_model.model(
                model.embed_tokens(tokens[:, step : step + 1]),
                prompt_length + step + 1,
                attended[:, None, : length + step + 1],
                cache,
            )[:, -1]
    return tokens


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
