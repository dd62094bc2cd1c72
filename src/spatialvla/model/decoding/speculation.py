"""Lossless speculation: one pass checks guesses of a whole chunk, and what it predicts is the next guess.

Each pass predicts every slot from the guesses before it. The guesses that agree, up to the first that does
not, are what plain greedy decoding would have said, and so is the prediction behind them; the predictions
further on are the next guesses (Jacobi iteration, arXiv 2305.10427). At least one more id is right after each
pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from spatialvla.actions.grids import Cells
from spatialvla.actions.tokens import FREE
from spatialvla.model.cache import KVCache
from spatialvla.model.decoding.passes import Layout, Passes

Near = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Which guesses (B, T) to keep where the model says (B, T), both vocabulary ids: (B, T) bool."""


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
        guess, best = guesses - first_action, predicted - first_action
        apart = (bins[guess] - bins[best]).abs()
        return (torch.minimum(apart, periods[best] - apart) <= tolerance).all(dim=-1)

    return near
