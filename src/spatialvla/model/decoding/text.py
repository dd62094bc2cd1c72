"""Text: any vocabulary ids, one a pass, until the end is spoken. For comparison with published outputs."""

from __future__ import annotations

import torch

from spatialvla.batch import Batch
from spatialvla.errors import InputError
from spatialvla.model.decoding.chunk import check_prompts, memory_for
from spatialvla.model.decoding.passes import Passes, Sampling, pick, require_finite


@torch.no_grad()
def generate_text(
    passes: Passes, batch: Batch, max_new_tokens: int, sampling: Sampling | None = None
) -> torch.Tensor:
    """(B, up to max_new_tokens) ids, filled with padding after <eos>."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    network = passes.network
    check_prompts(network, batch)
    with memory_for(len(batch), network.device):
        layout = passes.layout(batch.attention_mask, max_new_tokens - 1)
        cache = passes.cache_for(layout)
        hidden = passes.prefill(passes.embed(batch), batch.input_ids[:, :0], layout, cache, 1)
        running = torch.ones_like(batch.attention_mask[:, :1])
        ids: list[torch.Tensor] = []
        while True:
            chosen = pick(network.language_model, hidden, sampling=sampling)
            ids.append(torch.where(running, chosen, network.config.pad_token_id))
            running = running & (chosen != network.config.eos_token_id)
            if len(ids) == max_new_tokens or not bool(running.any()):
                return require_finite(torch.cat(ids, dim=1))
            slot = torch.full((1,), layout.prompt + len(ids) - 1, device=network.device)
            hidden = passes.run(network.embed_tokens(ids[-1].clamp(min=0)), slot, layout, cache)
