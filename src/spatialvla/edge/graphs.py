"""The parts of inference as functions of tensors of static shapes: depth, prefill and decode step.

One observation at a time. V images, P prompt slots, S slots in all, L layers, K key/value heads, H head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from spatialvla.actions.grids import NOT_FINITE
from spatialvla.batch import Batch
from spatialvla.model.decoding.passes import Layout, Passes, pick
from spatialvla.model.gemma2 import KVCache
from spatialvla.model.network import Network, token_positions
from spatialvla.vision.depth import PerImageHeads


@dataclass(frozen=True)
class Sizes:
    """The static shapes. prompt: P. chunk: ids of a chunk, three a step. image: side of a picture, pixels."""

    views: int
    image: int
    prompt: int
    chunk: int

    @property
    def slots(self) -> int:
        """S: the last id of a chunk is never fed back, so it needs none."""
        return self.prompt + self.chunk - 1


class Depth(nn.Module):
    """(V, 3, side, side) in [0, 1] -> (V, side, side) meters."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.estimator = network.vision_zoe_model
        self.estimator.keep_position_bias()
        for part in self.estimator.modules():
            if isinstance(part, PerImageHeads):
                part.without_waiting = True

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The estimate."""
        return self.estimator.estimate(pixel_values)


class Prefill(nn.Module):
    """A picture, its depth and a prompt -> the first id, and the keys and values of the prompt."""

    def __init__(self, network: Network, sizes: Sizes) -> None:
        super().__init__()
        self.network, self.sizes = network, sizes

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixel_values: torch.Tensor,
        intrinsics: torch.Tensor,
        depth: torch.Tensor,
        extrinsics: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(1, P) ids and mask, (V, …) images -> (1, 1) id, and keys and values (L, 1, K, P, H)."""
        network, prompt = self.network, self.sizes.prompt
        batch = Batch(
            input_ids,
            attention_mask,
            pixel_values,
            intrinsics,
            depth=depth,
            extrinsics=extrinsics,
            state=state,
        )
        passes = Passes(network)
        cache = passes.cache(1, prompt)
        layout = _layout(attention_mask, prompt)
        slots = torch.arange(prompt)
        hidden = passes.run(self._embedded(batch), slots, layout, cache, wanted=1)
        first = pick(network.language_model, hidden, network.config.grammar[0])
        return first, torch.stack(cache.keys), torch.stack(cache.values)

    def _embedded(self, batch: Batch) -> torch.Tensor:
        """As `Network.embed`, where the slots of images begin is looked up, not scattered to."""
        network = self.network
        seen = network.encode_images(batch).flatten(0, 1)
        if batch.state is not None:
            seen = torch.cat([seen, network.encode_state(batch.state).to(seen.dtype)])
        is_image = batch.input_ids[0] == network.config.image_token_index
        number = (is_image.long().cumsum(0) - 1).clamp(min=0)
        words = network.embed_tokens(batch.input_ids).to(seen.dtype)
        return torch.where(is_image[None, :, None], seen[number][None], words)


class Step(nn.Module):
    """An id of a chunk -> the next one, and its own keys and values."""

    allowed: torch.Tensor

    def __init__(self, network: Network, sizes: Sizes) -> None:
        super().__init__()
        self.network, self.sizes = network, sizes
        grammar = network.config.grammar
        self.first, self.last = grammar[0].start, grammar[2].stop
        rows = torch.arange(self.first, self.last)
        kinds = [(rows >= kind.start) & (rows < kind.stop) for kind in grammar]
        self.register_buffer("allowed", torch.stack(kinds), persistent=False)

    def forward(
        self,
        token: torch.Tensor,
        index: torch.Tensor,
        attention_mask: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The (1, 1) id of a chunk's place `index` (1,), mask (1, P) of the prompt, keys and values (L, 1, K, S, H).

        Returns the id behind it (1, 1), and the keys and values (L, 1, K, 1, H) to put into slot P + index.
        """
        network, sizes = self.network, self.sizes
        slot = index + sizes.prompt
        cache = KVCache(tuple(one.clone() for one in keys), tuple(one.clone() for one in values))
        layout = _layout(attention_mask, sizes.slots)
        passes = Passes(network)
        hidden = passes.run(passes.embed_actions(token), slot, layout, cache)
        uncapped = network.language_model.uncapped_logits(hidden, slice(self.first, self.last))
        finite = uncapped.sum(dim=-1).isfinite()
        allowed = self.allowed.index_select(0, (index + 1) % 3)
        logits = network.language_model.capped(uncapped).masked_fill(~allowed[None], -torch.inf)
        chosen = torch.where(finite, logits.argmax(dim=-1) + self.first, NOT_FINITE)
        written = [
            torch.stack([one.index_select(2, slot) for one in part]) for part in (cache.keys, cache.values)
        ]
        return chosen, written[0], written[1]


def _layout(attention_mask: torch.Tensor, slots: int) -> Layout:
    """As `Layout.behind`, written without padding a mask."""
    prompt = attention_mask.shape[1]
    behind = torch.ones(1, slots - prompt, dtype=torch.bool)
    real = torch.cat([attention_mask, behind], dim=1)
    return Layout(real, token_positions(real), prompt)
