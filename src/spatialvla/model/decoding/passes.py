"""The passes that decoding makes through the decoder: functions of tensors alone, so that they can be compiled.

Shape suffixes as in `gemma2`; P prompt columns, S columns in all, T tokens of one pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from spatialvla.model.cache import KVCache

if TYPE_CHECKING:
    from spatialvla.model.spatialvla import SpatialVLA


@dataclass(frozen=True)
class Sampling:
    """Tokens are drawn, not the most likely taken. temperature: above 0. generator: None takes torch's own."""

    temperature: float
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Columns:
    """What stands in the columns of the cache: P of the prompt, padded on the left, then one for each new token.

    real_BS: False on padding. positions_BS: rotary positions. prompt: P.
    """

    real_BS: torch.Tensor
    positions_BS: torch.Tensor
    prompt: int

    @classmethod
    def behind(cls, attention_mask: torch.Tensor, new: int) -> Columns:
        """Room for `new` tokens behind prompts with this attention mask (B, P)."""
        real = F.pad(attention_mask, (0, new), value=True)
        return cls(real, token_positions(real), attention_mask.shape[1])

    def visible(self, places_T: torch.Tensor) -> torch.Tensor:
        """(B, T, S): the whole prompt, and of the new tokens those up to each place itself."""
        columns = torch.arange(self.real_BS.shape[1], device=places_T.device)
        causal = columns <= places_T.clamp(min=self.prompt - 1)[:, None]
        return causal & self.real_BS[:, None, :]


class Passes:
    """Prefill and decode step of one model, as they are written; a subclass may run them compiled.

    `decode` calls `cache`, `first_tokens` and `next_tokens` alone when it takes the most likely tokens. Nothing in
    them waits for the device or depends on values, and shapes depend only on those of the arguments.
    """

    prompt_multiple: int = 1
    """What prompts had best be padded to a multiple of: more than 1 where each length is compiled on its own."""

    def __init__(self, model: SpatialVLA) -> None:
        self.model = model

    def cache(self, batch: int, capacity: int) -> KVCache:
        """A cache for one chunk of a batch. Whoever keeps one for the next has to `clear` it behind the prompt."""
        return KVCache.allocate(self.model.config.text, batch, capacity, self.model.device, self.model.dtype)

    def first_tokens(
        self,
        prompt_BPD: torch.Tensor,
        tokens_BT: torch.Tensor,
        columns: Columns,
        cache: KVCache,
        wanted: int,
        sampling: Sampling | None = None,
    ) -> torch.Tensor:
        """The prefill. (B, wanted): tokens for the last of the chunk's places 0 … T, the most likely unless sampling.

        prompt_BPD: the embedded prompts. tokens_BT: what stands at the chunk's places 0 … T - 1, in vocabulary ids.
        """
        hidden = self.prefill(prompt_BPD, tokens_BT, columns, cache, wanted)
        return self.choose(hidden, (tokens_BT.shape[1] + 1 - wanted) % 3, sampling)

    def next_tokens(
        self,
        tokens_BT: torch.Tensor,
        places_T: torch.Tensor,
        columns: Columns,
        cache: KVCache,
        kind: int,
        sampling: Sampling | None = None,
    ) -> torch.Tensor:
        """A decode step. (B, T): the token behind each of the tokens.

        tokens_BT: action tokens in successive columns `places_T`. kind: of the first token that is predicted: 0
        translation, 1 rotation, 2 gripper.
        """
        hidden = self.run(self._embed_actions(tokens_BT), places_T, columns, cache)
        return self.choose(hidden, kind, sampling)

    def prefill(
        self,
        prompt_BPD: torch.Tensor,
        tokens_BT: torch.Tensor,
        columns: Columns,
        cache: KVCache,
        wanted: int,
    ) -> torch.Tensor:
        """(B, wanted, D): the hidden states of the last of P + T tokens."""
        embeddings = prompt_BPD
        if tokens_BT.shape[1]:
            embeddings = torch.cat([prompt_BPD, self._embed_actions(tokens_BT).to(prompt_BPD.dtype)], dim=1)
        places = torch.arange(embeddings.shape[1], device=embeddings.device)
        return self.run(embeddings, places, columns, cache, wanted)

    def choose(self, hidden_BTD: torch.Tensor, kind: int, sampling: Sampling | None = None) -> torch.Tensor:
        """(B, T) vocabulary ids, the first of this kind and so on; only logits of each one's kind are computed."""
        chosen = hidden_BTD.new_empty(hidden_BTD.shape[:2], dtype=torch.long)
        for offset in range(min(3, chosen.shape[1])):
            rows = self.model.config.grammar[(kind + offset) % 3]
            logits = self.model.language_model.logits(hidden_BTD[:, offset::3], rows)
            chosen[:, offset::3] = rows.start + pick(logits, sampling)
        return chosen

    def _embed_actions(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.spatial_embed_tokens(tokens - self.model.config.action_token_begin_idx)

    def run(
        self,
        embeddings_BTD: torch.Tensor,
        places_T: torch.Tensor,
        columns: Columns,
        cache: KVCache,
        wanted: int | None = None,
    ) -> torch.Tensor:
        """(B, T, D): hidden states of embedded tokens in the columns `places_T`, or of the last `wanted` of them."""
        return self.model.language_model.model(
            embeddings_BTD,
            columns.positions_BS[:, places_T],
            columns.visible(places_T),
            cache,
            places_T,
            wanted,
        )


def token_positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """(B, T) rotary positions: the first token that is not padding is 1, as PaliGemma counts."""
    return attention_mask.long().cumsum(dim=1)


def pick(logits: torch.Tensor, sampling: Sampling | None) -> torch.Tensor:
    """Numbers of the most likely entries along the last axis, or drawn ones."""
    if sampling is None:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=sampling.generator)
    return drawn.view(logits.shape[:-1])
