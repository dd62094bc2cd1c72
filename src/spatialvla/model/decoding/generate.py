"""From a batch to action tokens: a prefill, then one decode step a token, or fewer where drafts are at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spatialvla.actions.grids import Cells
from spatialvla.errors import InputError
from spatialvla.model.cache import KVCache
from spatialvla.model.decoding.passes import Columns, Passes, Sampling, pick
from spatialvla.model.decoding.speculation import Near, speculate, within
from spatialvla.types import Batch

if TYPE_CHECKING:
    from spatialvla.model.spatialvla import SpatialVLA

FREE = -1
"""In committed tokens: not committed. In drafts: no guess."""


@dataclass(frozen=True)
class Decoded:
    """A chunk for each row, and what it took.

    tokens: (B, 3 * chunk) int64 vocabulary ids. passes: how often the decoder ran, the prefill included.
    accepted: (B,) int64, how many of a row's draft tokens were right before the first that was not.
    """

    tokens: torch.Tensor
    passes: int
    accepted: torch.Tensor


@torch.no_grad()
def decode(
    model: SpatialVLA,
    batch: Batch,
    committed: torch.Tensor | None = None,
    drafts: torch.Tensor | None = None,
    tolerance: int = 0,
    cells: Cells | None = None,
    sampling: Sampling | None = None,
) -> Decoded:
    """See `SpatialVLA.decode`. All that waits for the device comes before the first pass."""
    _check_batch(model, batch)
    shape = (len(batch), 3 * model.config.action_chunk_size)
    committed = _checked(model, "committed", committed, shape)
    lengths = (committed >= 0).sum(dim=1)
    if not bool((committed.ge(0) == (torch.arange(shape[1]) < lengths[:, None])).all()):
        raise InputError(
            "Committed tokens must be the first of their row; those behind a free place are not."
        )
    if drafts is not None and sampling is not None:
        raise InputError("Drafts speed up greedy decoding only; leave them out or set temperature to 0.")
    if tolerance < 0:
        raise InputError(f"tolerance must be 0 or more bins, got {tolerance}.")
    if tolerance > 0 and cells is None:
        raise InputError("A tolerance is a distance on the action grid; pass cells=processor.grid.cells.")
    guessed = None if drafts is None else _checked(model, "drafts", drafts, shape).to(model.device)

    known = int(lengths.min())
    committed = committed.to(model.device)
    if known == shape[1]:
        return Decoded(committed, 0, torch.zeros_like(lengths).to(model.device))
    with _memory(len(batch), model.device):
        columns = Columns.behind(batch.attention_mask, shape[1] - 1)
        cache = _cache(model.passes, columns)
        prompt = model.embed(batch)
        if guessed is None:
            tokens = plain(model.passes, prompt, columns, cache, committed, known, sampling)
            return Decoded(tokens, shape[1] - known, tokens.new_zeros(len(batch)))
        near: Near = torch.eq
        if tolerance > 0 and cells is not None:
            near = within(tolerance, cells, model.config.action_token_begin_idx, model.device)
        return Decoded(*speculate(model.passes, prompt, columns, cache, committed, guessed, near))


def plain(
    passes: Passes,
    prompt: torch.Tensor,
    columns: Columns,
    cache: KVCache,
    committed: torch.Tensor,
    known: int,
    sampling: Sampling | None,
) -> torch.Tensor:
    """One token a pass. known: committed tokens that every row has."""
    chunk = committed.shape[1]
    places = torch.arange(columns.prompt, columns.prompt + chunk, device=committed.device)
    chosen = passes.first_tokens(prompt, committed[:, :known], columns, cache, 1, sampling)
    tokens = [*committed[:, :known].split(1, dim=1), _unless(committed, known, chosen)]
    for place in range(known + 1, chunk):
        before = places[place - 1 : place]
        chosen = passes.next_tokens(tokens[-1], before, columns, cache, place % 3, sampling)
        tokens.append(_unless(committed, place, chosen))
    return torch.cat(tokens, dim=1)


def _unless(committed: torch.Tensor, place: int, chosen: torch.Tensor) -> torch.Tensor:
    given = committed[:, place : place + 1]
    return torch.where(given >= 0, given, chosen)


@torch.no_grad()
def generate_text(
    model: SpatialVLA, batch: Batch, max_new_tokens: int, sampling: Sampling | None = None
) -> torch.Tensor:
    """Any tokens (B, up to max_new_tokens), filled with padding after <eos>. For comparison with published outputs."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    _check_batch(model, batch)
    with _memory(len(batch), model.device):
        columns = Columns.behind(batch.attention_mask, max_new_tokens - 1)
        cache = _cache(model.passes, columns)
        prompt = model.embed(batch)
        hidden = model.passes.prefill(prompt, batch.input_ids[:, :0], columns, cache, 1)
        running = torch.ones_like(batch.attention_mask[:, :1])
        tokens: list[torch.Tensor] = []
        while True:
            chosen = pick(model.language_model.logits(hidden), sampling)
            tokens.append(torch.where(running, chosen, model.config.pad_token_id))
            running = running & (chosen != model.config.eos_token_id)
            if len(tokens) == max_new_tokens or not bool(running.any()):
                return torch.cat(tokens, dim=1)
            place = torch.full((1,), columns.prompt + len(tokens) - 1, device=model.device)
            hidden = model.passes.run(model.embed_tokens(tokens[-1]), place, columns, cache)


def _cache(passes: Passes, columns: Columns) -> KVCache:
    rows, capacity = columns.real_BS.shape
    cache = passes.cache(rows, capacity)
    cache.check_room(capacity)
    return cache


def _check_batch(model: SpatialVLA, batch: Batch) -> None:
    if batch.labels is not None:
        raise InputError("This batch has labels; generate from one that was made without actions=.")
    if not bool(batch.attention_mask[:, -1].all()):
        raise InputError("Prompts must be padded on the left to generate.")
    model.check_image_tokens(batch)


def _checked(
    model: SpatialVLA, name: str, tokens: torch.Tensor | None, shape: tuple[int, int]
) -> torch.Tensor:
    """The tokens on the host, where each must be FREE or of its place's kind."""
    if tokens is None:
        return torch.full(shape, FREE)
    if tokens.shape != shape or tokens.dtype != torch.long:
        raise InputError(f"{name} must be int64 {shape}, got {tokens.dtype} {tuple(tokens.shape)}.")
    tokens = tokens.cpu()
    for kind, rows in enumerate(model.config.grammar):
        of_kind = tokens[:, kind::3]
        wrong = of_kind[(of_kind != FREE) & ((of_kind < rows.start) | (of_kind >= rows.stop))]
        if len(wrong):
            raise InputError(
                f"{name} has {int(wrong[0])} where a token from {rows.start} to {rows.stop - 1} belongs "
                f"(or {FREE} for none)."
            )
    return tokens


@contextmanager
def _memory(rows: int, device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(
            f"{device} has too little free memory for a batch of {rows}; pass fewer rows at a time, or load the "
            "model in bfloat16."
        ) from None
