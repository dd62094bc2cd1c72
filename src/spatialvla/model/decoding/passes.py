"""The passes that decoding makes: functions of tensors alone, so that they can be compiled.

Shape suffixes as in `gemma2`; P prompt slots, S slots in all, T ids of one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional as F

from spatialvla.actions.grids import NOT_FINITE
from spatialvla.batch import Batch
from spatialvla.errors import InputError, NotFiniteError
from spatialvla.model.gemma2 import Gemma2ForCausalLM, KVCache
from spatialvla.model.network import Network, token_positions

_COLDEST = 1e-6
"""Of the temperatures that draw; logits divided by much smaller ones are infinite, and no other id could be drawn."""


@dataclass(frozen=True)
class Sampling:
    """Ids are drawn, not the most likely taken. temperature: above 0. generator: None takes torch's own."""

    temperature: float
    generator: torch.Generator | None = None

    @classmethod
    def at(cls, temperature: float, generator: torch.Generator | None = None) -> Sampling | None:
        """None for a temperature of 0, or as good as 0: the most likely. Raises InputError below."""
        if not temperature >= 0:
            raise InputError(f"temperature must be 0 or more, got {temperature}.")
        return cls(temperature, generator) if temperature > _COLDEST else None


@dataclass(frozen=True)
class Layout:
    """What stands in the slots of the cache: P of the prompt, padded on the left, then one for each new id.

    real_BS: False on padding. positions_BS: rotary positions. prompt: P.
    """

    real_BS: torch.Tensor
    positions_BS: torch.Tensor
    prompt: int

    @classmethod
    def behind(cls, attention_mask: torch.Tensor, new: int) -> Layout:
        """Room for `new` ids behind prompts with this attention mask (B, P)."""
        real = F.pad(attention_mask, (0, new), value=True)
        return cls(real, token_positions(real), attention_mask.shape[1])

    def visible(self, slots_T: torch.Tensor) -> torch.Tensor:
        """(B, T, S): the whole prompt, and of the new ids those up to each slot itself."""
        keys = torch.arange(self.real_BS.shape[1], device=slots_T.device)
        causal = keys <= slots_T.clamp(min=self.prompt - 1)[:, None]
        return causal & self.real_BS[:, None, :]


class Passes:
    """Embedding, prefill and decode step of a network, as they are written; a subclass may compile them.

    Decoding a chunk calls `embed`, `cache`, `first_ids` and `next_ids` alone when it takes the most likely
    ids. Nothing in the last two waits for the device or depends on values, and shapes depend only on those of
    the arguments.
    """

    prompt_multiple: int = 1
    """What to pad prompts to a multiple of: more than 1 where each length is compiled on its own."""

    slot_multiple: int = 1
    """The number of slots is a multiple of this: more than 1 where odd strides cost a product its speed."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def layout(self, attention_mask: torch.Tensor, new: int) -> Layout:
        """Room for at least `new` ids behind prompts with this attention mask (B, P)."""
        slots = attention_mask.shape[1] + new
        return Layout.behind(attention_mask, new + -slots % self.slot_multiple)

    def embed(self, batch: Batch) -> torch.Tensor:
        """(B, P, D): the embedded prompts."""
        return self.network.embed(batch)

    def cache(self, batch: int, capacity: int) -> KVCache:
        """A cache for one chunk of a batch. To keep it for the next, `clear` it behind the prompt."""
        network, config = self.network, self.network.config.text
        shape = (batch, config.num_key_value_heads, capacity, config.head_dim)
        keys, values = (
            tuple(
                torch.zeros(shape, device=network.device, dtype=network.dtype)
                for _ in range(config.num_hidden_layers)
            )
            for _ in range(2)
        )
        return KVCache(keys, values)

    def cache_for(self, layout: Layout) -> KVCache:
        """A cache with a slot for each of the layout's. Raises InputError where it holds fewer."""
        rows, slots = layout.real_BS.shape
        cache = self.cache(rows, slots)
        if slots > cache.capacity:
            raise InputError(f"The KV cache holds {cache.capacity} tokens; {slots} do not fit.")
        return cache

    def first_ids(
        self,
        prompt_BPD: torch.Tensor,
        ids_BT: torch.Tensor,
        layout: Layout,
        cache: KVCache,
        wanted: int,
        sampling: Sampling | None = None,
    ) -> torch.Tensor:
        """The prefill. (B, wanted): ids for the last of the chunk's slots 0 … T, the most likely or sampled.

        prompt_BPD: the embedded prompts. ids_BT: what stands in the chunk's slots 0 … T - 1.
        """
        hidden = self.prefill(prompt_BPD, ids_BT, layout, cache, wanted)
        return self.choose(hidden, (ids_BT.shape[1] + 1 - wanted) % 3, sampling)

    def next_ids(
        self,
        ids_BT: torch.Tensor,
        slots_T: torch.Tensor,
        layout: Layout,
        cache: KVCache,
        kind: int,
        sampling: Sampling | None = None,
    ) -> torch.Tensor:
        """A decode step. (B, T): the id behind each of the ids.

        ids_BT: action tokens in successive slots `slots_T` of the cache. kind: of the first id that is
        predicted: 0 translation, 1 rotation, 2 gripper.
        """
        hidden = self.run(self.embed_actions(ids_BT), slots_T, layout, cache)
        return self.choose(hidden, kind, sampling)

    def prefill(
        self, prompt_BPD: torch.Tensor, ids_BT: torch.Tensor, layout: Layout, cache: KVCache, wanted: int
    ) -> torch.Tensor:
        """(B, wanted, D): the hidden states of the last of P + T tokens."""
        embeddings = prompt_BPD
        if ids_BT.shape[1]:
            embeddings = torch.cat([prompt_BPD, self.embed_actions(ids_BT).to(prompt_BPD.dtype)], dim=1)
        slots = torch.arange(embeddings.shape[1], device=embeddings.device)
        return self.run(embeddings, slots, layout, cache, wanted)

    def choose(self, hidden_BTD: torch.Tensor, kind: int, sampling: Sampling | None = None) -> torch.Tensor:
        """(B, T) ids, the first of this kind and so on; only logits of each one's kind are computed."""
        chosen = hidden_BTD.new_empty(hidden_BTD.shape[:2], dtype=torch.long)
        for offset in range(min(3, chosen.shape[1])):
            rows = self.network.config.grammar[(kind + offset) % 3]
            chosen[:, offset::3] = pick(self.network.language_model, hidden_BTD[:, offset::3], rows, sampling)
        return chosen

    def probabilities(
        self, prompt_BPD: torch.Tensor, ids_BT: torch.Tensor, layout: Layout, cache: KVCache
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T / 3, cells), float32: of each kind's cells, in each step of a chunk that has been decoded.

        ids_BT: the whole chunk. One pass as wide as it, over a cache that holds the prompt.
        """
        given = torch.cat(
            [prompt_BPD[:, -1:], self.embed_actions(ids_BT[:, :-1]).to(prompt_BPD.dtype)], dim=1
        )
        slots = torch.arange(layout.prompt - 1, layout.prompt - 1 + ids_BT.shape[1], device=ids_BT.device)
        hidden = self.run(given, slots, layout, cache)
        model = self.network.language_model
        first, second, third = (
            torch.softmax(model.logits(hidden[:, kind::3], rows), dim=-1)
            for kind, rows in enumerate(self.network.config.grammar)
        )
        return first, second, third

    def embed_actions(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) vocabulary ids of action tokens -> (B, T, D)"""
        # A chunk with a token that is NOT_FINITE is refused in the end; until then any embedding does.
        tokens = (ids - self.network.config.action_token_begin_idx).clamp(min=0)
        return cast(torch.Tensor, self.network.spatial_embed_tokens(tokens))

    def run(
        self,
        embeddings_BTD: torch.Tensor,
        slots_T: torch.Tensor,
        layout: Layout,
        cache: KVCache,
        wanted: int | None = None,
    ) -> torch.Tensor:
        """(B, T, D): hidden states of the embeddings in `slots_T`, or of the last `wanted` of them."""
        positions, visible = layout.positions_BS[:, slots_T], layout.visible(slots_T)
        decoder = self.network.language_model.model
        return cast(torch.Tensor, decoder(embeddings_BTD, positions, visible, cache, slots_T, wanted))


def pick(
    language_model: Gemma2ForCausalLM,
    hidden: torch.Tensor,
    rows: slice = slice(None),
    sampling: Sampling | None = None,
) -> torch.Tensor:
    """Vocabulary ids of the most likely of the `rows`, or drawn ones: (…, D) -> (…).

    NOT_FINITE where one of the logits is NaN or infinite; the most likely of those would be the first token.
    """
    uncapped = language_model.uncapped_logits(hidden, rows)
    finite = uncapped.sum(dim=-1).isfinite()
    logits = language_model.capped(uncapped)
    if sampling is None:
        numbers = logits.argmax(dim=-1)
    else:
        probabilities = torch.softmax(logits.where(finite[..., None], 0) / sampling.temperature, dim=-1)
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=sampling.generator)
        numbers = drawn.view(logits.shape[:-1])
    return torch.where(finite, numbers + (rows.start or 0), NOT_FINITE)


def require_finite(ids: torch.Tensor) -> torch.Tensor:
    """The ids of whole chunks.

    Raises NotFiniteError where one is NOT_FINITE; the host waits for them once.
    """
    if bool((ids == NOT_FINITE).any()):
        raise NotFiniteError(
            "The model's logits contain NaN or infinity, so it says no action; check the observation's "
            "camera and depth, and download the checkpoint again."
        )
    return ids
