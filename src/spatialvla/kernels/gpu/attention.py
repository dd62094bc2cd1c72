"""Attention of few new tokens over a KV cache on a GPU: rotation, cache and soft-capped scores in one launch.

The slots of the cache are split among programs; the one that ends last puts their shares together.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from spatialvla.kernels.gpu.launches import after_the_last, let_the_next_begin, options

SPLIT = 32
"""Slots of one program."""

LEAST = 16
"""Rows of the smallest tile of the matrix units."""


@triton.jit
def _rotated(at, other, cos, sin, h, H: tl.constexpr, inside, kind: tl.constexpr):
    """The numbers at `at`, rotated; `other` is where their partners are."""
    x = tl.load(at, inside, 0).to(tl.float32)
    partner = tl.load(other, inside, 0).to(tl.float32)
    sign = tl.where(h < H // 2, -1.0, 1.0)
    turned = x * tl.load(cos, inside, 0).to(tl.float32) + sign * partner * tl.load(sin, inside, 0).to(
        tl.float32
    )
    return turned.to(kind)


@triton.jit
def _attend(
    qkv,
    cos,
    sin,
    bias,
    keys,
    values,
    slots,
    shares,
    sums,
    arrived,
    out,
    S,
    T,
    scale,
    softcap,
    KV_HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    H: tl.constexpr,
    WIDTH: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLIT: tl.constexpr,
    PARTS: tl.constexpr,
    CAPPED: tl.constexpr,
    EARLY: tl.constexpr,
):
    let_the_next_begin(EARLY)
    part, head, b = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kind: tl.constexpr = keys.dtype.element_ty
    h = tl.arange(0, WIDTH)
    other = (h + H // 2) % H
    wide = (h < H)[None, :]
    s = part * SPLIT + tl.arange(0, SPLIT)
    width: tl.constexpr = (GROUPS + 2) * KV_HEADS * H
    kept = (b * KV_HEADS + head).to(tl.int64) * S * H
    after_the_last(EARLY)

    # A row for each query head of the group and each token.
    row = tl.arange(0, GROUPS * TOKENS)
    t, group = row % TOKENS, row // TOKENS
    real = (t < T)[:, None] & wide
    angle = (b * T + t)[:, None] * H + h[None, :]
    query = (b * T + t)[:, None] * width + (head * GROUPS + group)[:, None] * H
    q = _rotated(
        qkv + query + h[None, :],
        qkv + query + other[None, :],
        cos + angle,
        sin + angle,
        h[None, :],
        H,
        real,
        kind,
    )

    place = s[:, None] * H + h[None, :]
    kept_slots = (s < S)[:, None] & wide
    k = tl.load(keys + kept + place, kept_slots, 0)
    v = tl.load(values + kept + place, kept_slots, 0)
    # The new tokens stand in successive slots.
    begin = tl.load(slots)
    if (begin < (part + 1) * SPLIT) & (begin + T > part * SPLIT):
        new = s - begin
        fresh = ((new >= 0) & (new < T))[:, None] & wide
        at = qkv + (b * T + new)[:, None] * width + (KV_HEADS * GROUPS + head) * H
        turn = (b * T + new)[:, None] * H + h[None, :]
        fresh_k = _rotated(
            at + h[None, :], at + other[None, :], cos + turn, sin + turn, h[None, :], H, fresh, kind
        )
        fresh_v = tl.load(at + KV_HEADS * H + h[None, :], fresh, 0).to(kind)
        tl.store(keys + kept + place, fresh_k, fresh)
        tl.store(values + kept + place, fresh_v, fresh)
        k = tl.where(fresh, fresh_k, k)
        v = tl.where(fresh, fresh_v, v)

    scores = tl.dot(q, tl.trans(k)) * scale
    if CAPPED:
        scores = (2 * tl.sigmoid(2 * scores / softcap) - 1) * softcap
    seen = (t < T)[:, None] & (s < S)[None, :]
    scores += tl.load(bias + ((b * T + t)[:, None] * S + s[None, :]), seen, 0).to(tl.float32)
    scores = tl.where((s < S)[None, :], scores, float("-inf"))
    most = tl.max(scores, axis=1)
    weights = tl.exp(scores - most[:, None])
    total = tl.sum(weights, axis=1)
    mixed = tl.dot(weights.to(kind), v)

    # The shares of all parts lie one behind the other.
    rows: tl.constexpr = GROUPS * TOKENS
    first = (b * KV_HEADS + head) * PARTS * rows
    tl.store(shares + (first + part * rows + row)[:, None] * H + h[None, :], mixed, real)
    tl.store(sums + 2 * (first + part * rows + row), most)
    tl.store(sums + 2 * (first + part * rows + row) + 1, total)
    tl.debug_barrier()
    count = arrived + b * KV_HEADS + head
    if tl.atomic_add(count, 1) == PARTS - 1:
        tl.debug_barrier()
        best = tl.full([rows], float("-inf"), tl.float32)
        for each in tl.static_range(PARTS):
            best = tl.maximum(best, tl.load(sums + 2 * (first + each * rows + row), cache_modifier=".cg"))
        whole = tl.zeros([rows], tl.float32)
        answer = tl.zeros([rows, WIDTH], tl.float32)
        for each in tl.static_range(PARTS):
            of = first + each * rows + row
            share = tl.exp(tl.load(sums + 2 * of, cache_modifier=".cg") - best)
            whole += share * tl.load(sums + 2 * of + 1, cache_modifier=".cg")
            answer += share[:, None] * tl.load(
                shares + of[:, None] * H + h[None, :], real, 0, cache_modifier=".cg"
            )
        heads: tl.constexpr = KV_HEADS * GROUPS
        to = out + ((b * T + t)[:, None] * heads + (head * GROUPS + group)[:, None]) * H + h[None, :]
        tl.store(to, (answer / whole[:, None]).to(kind), real)
        tl.store(count, 0)


class CacheAttention:
    """The kernel with the memory in which its programs meet, which is kept for recorded graphs."""

    def __init__(self, heads: int, kv_heads: int, head_dim: int, scale: float, softcap: float | None) -> None:
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.scale, self.softcap = scale, softcap
        self._meeting: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def __call__(
        self,
        qkv_BTX: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        bias_B1TS: torch.Tensor,
        keys_BKSH: torch.Tensor,
        values_BKSH: torch.Tensor,
        slots_T: torch.Tensor,
    ) -> torch.Tensor:
        """(B, T, heads * head_dim), of queries, keys and values (B, T, X) that are not rotated yet.

        The new keys and values are written to the slots `slots_T`, which follow each other. The other
        arguments are as in `spatialvla.model.gemma2.GroupedQueryAttention`.
        """
        B, T, _ = qkv_BTX.shape
        S, groups = keys_BKSH.shape[2], self.heads // self.kv_heads
        tokens = max(triton.next_power_of_2(T), LEAST // groups)
        parts = triton.cdiv(S, SPLIT)
        shape = (B, self.kv_heads, parts, groups * tokens)
        if shape not in self._meeting:
            wide = qkv_BTX.new_empty((*shape, self.head_dim), dtype=torch.float32)
            sums = qkv_BTX.new_empty((*shape, 2), dtype=torch.float32)
            arrived = qkv_BTX.new_zeros(shape[:2], dtype=torch.int32)
            self._meeting[shape] = wide, sums, arrived
        out = qkv_BTX.new_empty(B, T, self.heads * self.head_dim)
        _attend[parts, self.kv_heads, B](
            qkv_BTX,
            *(part.contiguous() for part in rotary),
            bias_B1TS.contiguous(),
            keys_BKSH,
            values_BKSH,
            slots_T,
            *self._meeting[shape],
            out,
            S,
            T,
            self.scale,
            1.0 if self.softcap is None else self.softcap,
            KV_HEADS=self.kv_heads,
            GROUPS=groups,
            H=self.head_dim,
            WIDTH=max(LEAST, triton.next_power_of_2(self.head_dim)),
            TOKENS=tokens,
            SPLIT=SPLIT,
            PARTS=parts,
            CAPPED=self.softcap is not None,
            num_warps=8,
            **options(B * T),
        )
        return out
