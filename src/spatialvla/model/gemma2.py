"""The Gemma 2 decoder: prefix-LM mask, soft caps, interleaved sliding window, GQA, over a static KV cache.

Nothing here looks at values on the host, so that each pass compiles into one graph.

Shape suffixes: B batch, T query tokens, S key tokens, D hidden, N query heads, K key/value heads, H head
size, F feed-forward, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spatialvla.errors import InputError
from spatialvla.model.config import Gemma2Config


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """What sums and exponentials are computed in."""
    return torch.promote_types(dtype, torch.float32)


class RMSNorm(nn.Module):
    """Root-mean-square norm with a scale of 1 + weight, computed in float32 or wider."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) -> (…, D), in the same dtype"""
        wide = x.to(at_least_float32(x.dtype))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + self.weight.to(wide.dtype))).to(x.dtype)


def rotary_angles(
    positions_BT: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the rotary position embedding, (B, 1, T, H), computed in float32."""
    exponent = torch.arange(0, head_dim, 2, device=positions_BT.device, dtype=torch.float32) / head_dim
    angles = positions_BT.float()[..., None] / theta**exponent
    angles = torch.cat([angles, angles], dim=-1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BNTH: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Queries or keys (B, N, T, H) by their positions. cos, sin: (B, 1, T, H), of `rotary_angles`."""
    first, second = x_BNTH.chunk(2, dim=-1)
    return x_BNTH * cos + torch.cat([-second, first], dim=-1) * sin


Wanted = int | torch.Tensor
"""Tokens whose results are wanted: so many last ones, or those at places (B, W) of each row."""


def only(x: torch.Tensor, wanted: Wanted | None) -> torch.Tensor:
    """(B, …, T, size) -> (B, …, W, size), of the wanted tokens; None for all."""
    if wanted is None:
        return x
    if isinstance(wanted, int):
        return x[..., -wanted:, :]
    places = wanted.view(len(wanted), *[1] * (x.dim() - 3), -1, 1)
    return x.gather(-2, places.expand(*x.shape[:-2], -1, x.shape[-1]))


@dataclass(frozen=True)
class LayerCache:
    """Keys and values (B, K, S, H) of one layer."""

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, k_BKTH: torch.Tensor, v_BKTH: torch.Tensor, slots_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes new keys and values at the slots `slots_T`; returns those of all slots, (B, K, S, H)."""
        self.keys.index_copy_(2, slots_T, k_BKTH.to(self.keys.dtype))
        self.values.index_copy_(2, slots_T, v_BKTH.to(self.values.dtype))
        return self.keys, self.values


@dataclass(frozen=True)
class KVCache:
    """Keys and values of the slots of a batch, whether written yet or not; masks hide what is not.

    keys, values: a tensor (B, K, S, H) a layer. They are separate tensors so that writing to one is no change
    of the others to a compiler. All shapes stay as they were allocated.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def capacity(self) -> int:
        """S."""
        return self.keys[0].shape[2]

    def clear(self, first: int = 0) -> None:
        """Zeros the slots from `first` on, before the cache serves another batch.

        A hidden slot weighs nothing, but nothing times a NaN that another request left behind is NaN.
        """
        torch._foreach_zero_([tensor[:, :, first:] for tensor in (*self.keys, *self.values)])  # one launch

    def layer(self, index: int) -> LayerCache:
        """What one layer reads and writes. It does not know its index, so all layers compile into one graph."""
        return LayerCache(self.keys[index], self.values[index])


class GroupedQueryAttention(nn.Module):
    """Grouped-query attention with soft-capped scores; subclasses make the queries, keys and values."""

    rotate = staticmethod(rotate)
    o_proj: nn.Module

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.query_pre_attn_scalar**-0.5
        self.softcap = config.attn_logit_softcapping

    def forward(
        self,
        x_BTD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        bias_B1TS: torch.Tensor,
        cache: LayerCache | None,
        slots_T: torch.Tensor | None = None,
        wanted: Wanted | None = None,
    ) -> torch.Tensor:
        """With a cache the new keys and values are written in its slots `slots_T`, and all slots are keys.

        wanted: what is returned is of these tokens only; None for all.
        """
        q, k, v = self.project(x_BTD)
        k = self.rotate(k, *rotary)
        cos, sin = (only(angles, wanted) for angles in rotary)
        q, bias_B1TS = self.rotate(only(q, wanted), cos, sin), only(bias_B1TS, wanted)
        if cache is not None:
            assert slots_T is not None
            k, v = cache.update(k, v, slots_T)
        return cast(torch.Tensor, self.o_proj(self.attend(q, k, v, bias_B1TS)))

    def project(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, N, T, H), keys and values (B, K, T, H), not rotated yet."""
        raise NotImplementedError

    def attend(
        self, q_BNTH: torch.Tensor, k_BKSH: torch.Tensor, v_BKSH: torch.Tensor, bias_B1TS: torch.Tensor
    ) -> torch.Tensor:
        """(B, T, N * H): the values of all slots, weighted by soft-capped scores."""
        B, _, T, _ = q_BNTH.shape
        # Query heads of one group are stacked along T, so keys and values are never repeated.
        groups = self.heads // self.kv_heads
        q = q_BNTH.reshape(B, self.kv_heads, groups * T, self.head_dim)
        scores = torch.matmul(q, k_BKSH.transpose(2, 3)) * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        scores = scores.view(B, self.kv_heads, groups, T, -1) + bias_B1TS[:, :, None]
        weights = torch.softmax(scores, dim=-1, dtype=at_least_float32(q.dtype)).to(q.dtype)
        mixed = torch.matmul(weights.view(B, self.kv_heads, groups * T, -1), v_BKSH)
        return mixed.view(B, self.heads, T, self.head_dim).transpose(1, 2).reshape(B, T, -1)


class Attention(GroupedQueryAttention):
    """Attention with a projection each, as published."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__(config)
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def project(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, D) -> q (B, heads, T, head_dim), k and v (B, kv_heads, T, head_dim)."""
        B, T, _ = x_BTD.shape
        q = self.q_proj(x_BTD).view(B, T, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        return q, k, v


class MLP(nn.Module):
    """GeGLU with the tanh approximation of GELU."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)"""
        gated = F.gelu(self.gate_proj(x_BTD), approximate="tanh") * self.up_proj(x_BTD)
        return cast(torch.Tensor, self.down_proj(gated))


class Layer(nn.Module):
    """Attention and MLP, each between two norms. Even layers see a sliding window only.

    checkpoint_activations: keep the inputs alone for the gradient, and compute the rest again.
    """

    self_attn: GroupedQueryAttention
    mlp: nn.Module

    def __init__(self, config: Gemma2Config, layer: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.slides = layer % 2 == 0
        self.checkpoint_activations = False
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.pre_feedforward_layernorm = RMSNorm(size, eps)
        self.post_feedforward_layernorm = RMSNorm(size, eps)

    def forward(
        self,
        x_BTD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        bias_B1TS: torch.Tensor,
        cache: LayerCache | None,
        slots_T: torch.Tensor | None = None,
        wanted: Wanted | None = None,
    ) -> torch.Tensor:
        """(B, T, D), or of the `wanted` tokens only."""
        given = (x_BTD, rotary, bias_B1TS, cache, slots_T, wanted)
        if not self.checkpoint_activations:
            return self._run(*given)
        return cast(torch.Tensor, checkpoint(self._run, *given, use_reentrant=False))

    def _run(
        self,
        x_BTD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        bias_B1TS: torch.Tensor,
        cache: LayerCache | None,
        slots_T: torch.Tensor | None,
        wanted: Wanted | None,
    ) -> torch.Tensor:
        attended = self.self_attn(self.input_layernorm(x_BTD), rotary, bias_B1TS, cache, slots_T, wanted)
        x_BTD = only(x_BTD, wanted) + self.post_attention_layernorm(attended)
        mixed = self.mlp(self.pre_feedforward_layernorm(x_BTD))
        return x_BTD + cast(torch.Tensor, self.post_feedforward_layernorm(mixed))


class Gemma2Decoder(nn.Module):
    """Embedded tokens in, normalized hidden states out."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        embeddings_BTD: torch.Tensor,
        positions_BT: torch.Tensor,
        visible_BTS: torch.Tensor,
        cache: KVCache | None = None,
        slots_T: torch.Tensor | None = None,
        wanted: Wanted | None = None,
    ) -> torch.Tensor:
        """The hidden states (B, T, D) of T new tokens, or of the `wanted` ones of them.

        positions_BT: rotary positions. visible_BTS: which of the S slots each new token may attend to, before
        the sliding window narrows it on even layers. slots_T: the slots of the new tokens, which are all
        slots unless there is a cache. wanted: of the others the last layer computes keys and values alone.
        """
        if slots_T is None:
            slots_T = torch.arange(visible_BTS.shape[2], device=visible_BTS.device)
        # The scale is rounded to the dtype of the embeddings, as it was in pre-training.
        x_BTD = embeddings_BTD * torch.tensor(self.config.hidden_size**0.5, dtype=embeddings_BTD.dtype)
        rotary = rotary_angles(positions_BT, self.config.head_dim, self.config.rope_theta, x_BTD.dtype)
        full = near = attention_bias(visible_BTS, x_BTD.dtype)
        if self.config.sliding_window < visible_BTS.shape[2]:
            near = attention_bias(visible_BTS & self._window(visible_BTS, slots_T), x_BTD.dtype)
        return self.run_layers(x_BTD, rotary, near, full, cache, slots_T, wanted)

    def run_layers(
        self,
        x_BTD: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        near_B1TS: torch.Tensor,
        full_B1TS: torch.Tensor,
        cache: KVCache | None,
        slots_T: torch.Tensor,
        wanted: Wanted | None,
    ) -> torch.Tensor:
        """All layers and the last norm. near_B1TS, full_B1TS: the bias of layers with and without a window."""
        for index, layer in enumerate(self.layers):
            last = wanted if layer is self.layers[-1] else None
            kept = None if cache is None else cache.layer(index)
            x_BTD = layer(x_BTD, rotary, near_B1TS if layer.slides else full_B1TS, kept, slots_T, last)
        return cast(torch.Tensor, self.norm(x_BTD))

    def _window(self, visible_BTS: torch.Tensor, slots_T: torch.Tensor) -> torch.Tensor:
        """(T, S): keys fewer than `sliding_window` slots behind the query; those ahead are not narrowed."""
        keys = torch.arange(visible_BTS.shape[2], device=visible_BTS.device)
        return slots_T[:, None] - keys < self.config.sliding_window


def attention_bias(visible_BTS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """0 where attention is allowed, the dtype's lowest number elsewhere, (B, 1, T, S)."""
    bias = torch.zeros(visible_BTS.shape, dtype=dtype, device=visible_BTS.device)
    return bias.masked_fill_(~visible_BTS, torch.finfo(dtype).min)[:, None]


class Head(nn.Linear):
    """From hidden states to logits, of the whole vocabulary or some rows of it.

    weight: (V - first, D), the rows of the vocabulary entries from `first` on.
    """

    def __init__(self, hidden_size: int, vocab_size: int, first: int = 0) -> None:
        """first: forget the entries before it."""
        super().__init__(hidden_size, vocab_size - first, bias=False)
        self.first = first

    def forward(self, input: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """(…, D) -> (…, V), or (…, rows). Raises InputError for rows that are forgotten."""
        return F.linear(input, self.rows(rows))

    def rows(self, rows: slice) -> torch.Tensor:
        """(rows, D): their weights. Raises InputError for rows that are forgotten."""
        start, stop, _ = rows.indices(self.first + len(self.weight))
        if start < self.first:
            raise InputError(
                "This model was made to speak actions only, without the head's rows of text; for text load the "
                "original checkpoint, and if you optimize it, with text_head=True."
            )
        return self.weight[start - self.first : stop - self.first]

    def without_text(self, first: int) -> Head:
        """The same head for the entries from `first` on alone."""
        weight = self.rows(slice(first, None)).detach().clone()
        with torch.device("meta"):
            head = Head(weight.shape[1], first + len(weight), first)
        head.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        return head


class Gemma2ForCausalLM(nn.Module):
    """The decoder with its untied head."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.model = Gemma2Decoder(config)
        self.lm_head = Head(config.hidden_size, config.vocab_size)
        self.softcap = config.final_logit_softcapping

    def logits(self, hidden: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """Soft-capped logits (…, V) of hidden states (…, D), or only those of the vocabulary `rows`."""
        return self.capped(self.uncapped_logits(hidden, rows))

    def uncapped_logits(self, hidden: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
        """The same before the soft cap, which makes infinite ones finite."""
        logits: torch.Tensor = self.lm_head(hidden, rows)
        return logits.to(at_least_float32(logits.dtype))

    def capped(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (…, V) within the soft cap."""
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap
