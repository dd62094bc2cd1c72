"""A chunk of action ids: a prefill, then one decode step an id, or fewer where drafts are at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int

from spatialvla.actions.grids import Cells
from spatialvla.actions.tokens import FREE, checked_tokens
from spatialvla.batch import Batch
from spatialvla.errors import InputError
from spatialvla.model.cache import KVCache
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.decoding.passes import Layout, Passes, Sampling
from spatialvla.model.decoding.prompt import check_prompts, memory_for
from spatialvla.model.decoding.speculation import Near, speculate, within


@dataclass(frozen=True)
class Decoded:
    """A chunk for each row, and what it took.

    ids: 3 * chunk vocabulary ids a row. passes: how often the decoder ran, the prefill included.
    accepted: how many of a row's draft ids were right before the first that was not.
    """

    ids: Int[torch.Tensor, "B ids"]
    passes: int
    accepted: Int[torch.Tensor, " B"]


@torch.no_grad()
def decode(
    passes: Passes,
    batch: Batch,
    committed_ids: torch.Tensor | None = None,
    draft_ids: torch.Tensor | None = None,
    tolerance: int = 0,
    cells: Cells | None = None,
    sampling: Sampling | None = None,
) -> Decoded:
    """See `SpatialVLA.decode`. All that waits for the device comes before the first pass."""
    config, device = passes.network.config, passes.network.device
    check_prompts(passes.network, batch)
    shape = (len(batch), 3 * config.action_chunk_size)
    committed = _checked_ids("committed_ids", committed_ids, shape, config)
    lengths = (committed != FREE).sum(dim=1)
    if not bool((committed.ne(FREE) == (torch.arange(shape[1]) < lengths[:, None])).all()):
        raise InputError("Committed ids must be the first of their row; these stand behind a free slot.")
    if draft_ids is not None and sampling is not None:
        raise InputError("Drafts speed up greedy decoding only; leave them out or set temperature to 0.")
    if tolerance < 0:
        raise InputError(f"tolerance must be 0 or more bins, got {tolerance}.")
    if tolerance > 0 and cells is None:
        raise InputError("A tolerance is a distance on the action grid; pass cells=processor.grid.cells.")
    drafts = None if draft_ids is None else _checked_ids("draft_ids", draft_ids, shape, config).to(device)

    known = int(lengths.min())
    committed = committed.to(device)
    if known == shape[1]:
        return Decoded(committed, 0, torch.zeros_like(lengths).to(device))
    with memory_for(len(batch), device):
        layout = Layout.behind(batch.attention_mask, shape[1] - 1)
        cache = passes.cache(*layout.real_BS.shape)
        cache.check_room(layout.real_BS.shape[1])
        prompt = passes.embed(batch)
        if drafts is None:
            ids = one_by_one(passes, prompt, layout, cache, committed, known, sampling)
            return Decoded(ids, shape[1] - known, ids.new_zeros(len(batch)))
        near: Near = torch.eq
        if tolerance > 0 and cells is not None:
            near = within(tolerance, cells, config.action_token_begin_idx, device)
        return Decoded(*speculate(passes, prompt, layout, cache, committed, drafts, near))


def one_by_one(
    passes: Passes,
    prompt_BPD: torch.Tensor,
    layout: Layout,
    cache: KVCache,
    committed: torch.Tensor,
    known: int,
    sampling: Sampling | None = None,
) -> torch.Tensor:
    """(B, 3 * chunk) ids, one a pass. committed: (B, 3 * chunk). known: committed ids that every row has."""
    chunk = committed.shape[1]
    slots = torch.arange(layout.prompt, layout.prompt + chunk, device=committed.device)
    chosen = passes.first_ids(prompt_BPD, committed[:, :known], layout, cache, 1, sampling)
    ids = [*committed[:, :known].split(1, dim=1), _unless(committed, known, chosen)]
    for index in range(known + 1, chunk):
        before = slots[index - 1 : index]
        chosen = passes.next_ids(ids[-1], before, layout, cache, index % 3, sampling)
        ids.append(_unless(committed, index, chosen))
    return torch.cat(ids, dim=1)


def _unless(committed: torch.Tensor, index: int, chosen: torch.Tensor) -> torch.Tensor:
    given = committed[:, index : index + 1]
    return torch.where(given != FREE, given, chosen)


def _checked_ids(
    name: str, ids: torch.Tensor | None, shape: tuple[int, int], config: SpatialVLAConfig
) -> torch.Tensor:
    """The ids on the host, each FREE or of its slot's kind."""
    if ids is None:
        return torch.full(shape, FREE)
    if ids.shape != shape or ids.dtype != torch.long:
        raise InputError(f"{name} must be int64 {shape}, got {ids.dtype} {tuple(ids.shape)}.")
    ids = ids.cpu()
    checked_tokens(name, ids.unflatten(1, (-1, 3)).numpy(), config.id_ranges, free=FREE)
    return ids
