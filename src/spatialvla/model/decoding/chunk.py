"""A chunk of action ids: a prefill, then one decode step an id, or fewer where drafts are at hand.

Drafts are checked without loss. Each pass predicts every slot from the guesses before it. The guesses that
agree, up to the first that does not, are what plain greedy decoding would have said, and so is the prediction
behind them; the predictions further on are the next guesses (Jacobi iteration, arXiv 2305.10427). At least
one more id is right after each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Int

from spatialvla.actions.grids import FREE, NOT_FINITE, Cells, checked_tokens
from spatialvla.batch import Batch
from spatialvla.errors import InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.decoding.passes import Layout, Passes, Sampling, require_finite
from spatialvla.model.gemma2 import KVCache
from spatialvla.model.network import Network

Near = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Which guesses (B, T) to keep where the model says (B, T), both vocabulary ids: (B, T) bool."""


@dataclass(frozen=True)
class Decoded:
    """A chunk for each row, and what it took.

    ids: 3 * chunk vocabulary ids a row. passes: how often the decoder ran, the prefill included.
    accepted: how many of a row's draft ids were right before the first that was not.
    probabilities: of the cells of each kind, (B, steps, cells) float32; None unless asked for.
    """

    ids: Int[torch.Tensor, "B ids"]
    passes: int
    accepted: Int[torch.Tensor, " B"]
    probabilities: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None


@torch.no_grad()
def decode(
    passes: Passes,
    batch: Batch,
    committed_ids: torch.Tensor | None = None,
    draft_ids: torch.Tensor | None = None,
    tolerance: int = 0,
    cells: Cells | None = None,
    sampling: Sampling | None = None,
    probabilities: bool = False,
) -> Decoded:
    """See `SpatialVLA.decode`.

    probabilities: also give those of all cells, which takes a pass more.

    What waits for the device comes before the first pass, or once after the last.
    """
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
        if not probabilities:
            return Decoded(committed, 0, torch.zeros_like(lengths).to(device))
        drafts = torch.full_like(committed, FREE)  # nothing is to be said; one pass fills the cache
    with memory_for(len(batch), device):
        layout = passes.layout(batch.attention_mask, shape[1] - 1)
        cache = passes.cache_for(layout)
        prompt = passes.embed(batch)
        if drafts is None:
            ids = one_by_one(passes, prompt, layout, cache, committed, known, sampling)
            count, accepted = shape[1] - known, ids.new_zeros(len(batch))
        else:
            near: Near = torch.eq
            if tolerance > 0 and cells is not None:
                near = within(tolerance, cells, config.action_token_begin_idx, device)
            ids, count, accepted = speculate(passes, prompt, layout, cache, committed, drafts, near)
        ids = require_finite(ids)
        if not probabilities:
            return Decoded(ids, count, accepted)
        return Decoded(ids, count + 1, accepted, passes.probabilities(prompt, ids, layout, cache))


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


def speculate(
    passes: Passes,
    prompt_BPD: torch.Tensor,
    layout: Layout,
    cache: KVCache,
    committed: torch.Tensor,
    drafts: torch.Tensor,
    near: Near = torch.eq,
) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Ids, passes and accepted drafts of `Decoded`.

    committed, drafts: (B, 3 * chunk); the drafts guess the free slots.

    All rows go through the same passes over the same slots; one that is ahead repeats what it knows already.
    Each pass is as wide as the steps of the chunk that some row has open, so that there are few widths.
    """
    chunk = committed.shape[1]
    slots = torch.arange(layout.prompt, layout.prompt + chunk, device=committed.device)
    fixed = committed != FREE
    offered = ~fixed & (drafts != FREE)
    guesses = hold(torch.where(fixed, committed, drafts), passes.network.config.grammar)
    settled = fixed.sum(dim=1)

    predicted = passes.first_ids(prompt_BPD, guesses[:, :-1], layout, cache, chunk)
    agreed = agreement(guesses, predicted, settled, near)
    accepted = (agreed & offered).sum(dim=1)
    count = 1
    while True:
        guesses = torch.where(agreed, guesses, predicted)
        settled = (agreed.sum(dim=1) + 1).clamp(max=chunk)
        least = int(settled.min())  # the only time in a pass that the host waits
        if least == chunk:
            return guesses, count, accepted
        # The last right id of the row furthest behind is not in the cache yet. Begin with the step it is in.
        begin = (least - 1) // 3 * 3
        window = passes.next_ids(guesses[:, begin:-1], slots[begin:-1], layout, cache, 1)
        predicted = torch.cat([guesses[:, : begin + 1], window], dim=1)
        agreed = agreement(guesses, predicted, settled, near)
        count += 1


def agreement(
    guesses: torch.Tensor, predicted: torch.Tensor, settled: torch.Tensor, near: Near
) -> torch.Tensor:
    """(B, T): the guesses that stand, up to the first that the model disagrees with.

    settled: (B,) how many stand already. They are never taken back, even if another width of pass rounds
    otherwise.
    """
    indices = torch.arange(guesses.shape[1], device=guesses.device)
    right = near(guesses, predicted) | (indices < settled[:, None])
    return right.long().cumprod(dim=1).bool()


def hold(ids: torch.Tensor, grammar: tuple[slice, slice, slice]) -> torch.Tensor:
    """Ids (B, 3 * steps) with every FREE replaced by the last id of its kind, or the first that there is."""
    last = torch.tensor([rows.start for rows in grammar], device=ids.device)
    held = []
    for step in ids.unflatten(1, (-1, 3)).unbind(dim=1):
        last = torch.where(step != FREE, step, last)
        held.append(last)
    return torch.cat(held, dim=1)


def within(tolerance: int, cells: Cells, first_action: int, device: torch.device) -> Near:
    """Keeps guesses whose cell is at most `tolerance` bins from the model's along each dimension."""
    bins, periods = (torch.from_numpy(a).to(device) for a in (cells.bins, cells.periods))

    def near(guesses: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        guess, best = ((ids - first_action).clamp(min=0) for ids in (guesses, predicted))
        apart = (bins[guess] - bins[best]).abs()
        close = (torch.minimum(apart, periods[best] - apart) <= tolerance).all(dim=-1)
        return close & (guesses != NOT_FINITE) & (predicted != NOT_FINITE)

    return near


def check_prompts(network: Network, batch: Batch) -> None:
    """Raises InputError where a batch has labels, padding on the right, or another number of image tokens."""
    if batch.labels is not None:
        raise InputError("This batch has labels; generate from one that was made without actions=.")
    if not bool(batch.attention_mask[:, -1].all()):
        raise InputError("Prompts must be padded on the left to generate.")
    network.check_image_tokens(batch)


@contextmanager
def memory_for(rows: int, device: torch.device) -> Iterator[None]:
    """Lets what runs inside raise InputError, with what to do, where the device has too little memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(
            f"{device} has too little free memory for a batch of {rows}; pass fewer rows at a time, "
            "or load the model in bfloat16."
        ) from None
