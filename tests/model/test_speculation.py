"""Speculation: the tokens of plain greedy decoding in fewer passes, whatever the drafts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_decoder import SHAPE, TEXT, Case, cases, example
from torch._dynamo.testing import CompileCounter

from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import InputError
from spatialvla.model.decoding.chunk import one_by_one
from spatialvla.model.decoding.passes import Layout, Passes

GRID = ActionGrid.uniform(Bins(*SHAPE, *SHAPE))


def drafts_like(case: Case, true: torch.Tensor) -> torch.Tensor:
    """Each row a draft of its own sort: none, random, right, half right, shifted by a step, with gaps."""
    other = case.actions()
    some = case.integers(2, *true.shape).bool()
    shifted = torch.cat([true[:, 3:], true[:, -3:]], dim=1)
    sorts = torch.stack(
        [
            torch.full_like(true, -1),
            other,
            true,
            torch.where(some, true, other),
            shifted,
            true.masked_fill(some, -1),
        ]
    )
    return sorts[case.integers(len(sorts), len(true)), torch.arange(len(true))]


@settings(max_examples=400)
@given(cases(), st.booleans())
def test_speculation_says_what_greedy_decoding_says(case, with_prefix):
    committed = case.prefixes() if with_prefix else None
    plain = case.model.decode(case.batch, committed_ids=committed)
    free = case.chunk - int((committed >= 0).sum(1).min()) if with_prefix else case.chunk
    assert plain.passes == free
    for _ in range(3):
        drafts = drafts_like(case, plain.ids)
        found = case.model.decode(case.batch, committed_ids=committed, draft_ids=drafts)
        assert torch.equal(found.ids, plain.ids)
        assert found.passes <= free


@given(cases(rows=3))
def test_committed_tokens_come_through_and_the_rest_goes_on_from_them(case):
    committed = case.prefixes()
    found = case.model.decode(case.batch, committed_ids=committed)
    assert torch.equal(found.ids, case.greedy(committed))
    given_ = committed >= 0
    assert torch.equal(found.ids[given_], committed[given_])
    guessed = case.model.decode(case.batch, committed_ids=committed, draft_ids=case.actions())
    assert torch.equal(guessed.ids, found.ids)


@given(cases(), st.booleans())
def test_right_drafts_take_one_pass_and_only_right_ones_count(case, with_prefix):
    committed = case.prefixes() if with_prefix else torch.full((len(case.batch), case.chunk), -1)
    free = committed < 0
    tokens = case.model.decode(case.batch, committed_ids=committed).ids
    right = case.model.decode(case.batch, committed_ids=committed, draft_ids=tokens)
    assert right.passes == (1 if free.any() else 0)
    assert torch.equal(right.accepted, free.sum(1))
    # Nobody asks what follows the last token, so that a wrong guess of it costs no pass either.
    late = tokens.clone()
    late[:, -1] = case.actions()[:, -1]
    assert case.model.decode(case.batch, committed_ids=committed, draft_ids=late).passes == right.passes

    other = torch.where(case.integers(2, *tokens.shape).bool(), tokens, case.actions())
    accepted = case.model.decode(case.batch, committed_ids=committed, draft_ids=other).accepted
    agreed = ((other == tokens) | ~free).long().cumprod(1).bool()
    assert torch.equal(accepted, (agreed & free).sum(1))


def predictions(case: Case, tokens: torch.Tensor) -> torch.Tensor:
    """(B, chunk): what the model holds most likely at each slot, given the tokens before it."""
    passes = case.model.passes
    layout = Layout.behind(case.batch.attention_mask, case.chunk - 1)
    cache = passes.cache(*layout.real_BS.shape)
    prompt = case.model.embed(case.batch)
    return passes.first_ids(prompt, tokens[:, :-1], layout, cache, case.chunk)


def distances(tokens: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(B, chunk): bins apart along the dimension in which they are furthest apart; grippers 0 or endless."""
    bins, other_bins = (GRID.bin_indices((t - TEXT).numpy().reshape(len(t), -1, 3)) for t in (tokens, others))
    apart = {name: np.abs(bins[name] - other_bins[name]) for name in bins}
    apart["phi"] = np.minimum(apart["phi"], GRID.bins.phi - apart["phi"])
    translation = np.maximum.reduce([apart["theta"], apart["phi"], apart["r"]])
    rotation = np.maximum.reduce([apart["roll"], apart["pitch"], apart["yaw"]])
    gripper = apart["gripper"] * 1000
    return torch.from_numpy(np.stack([translation, rotation, gripper], -1).reshape(tokens.shape))


@given(cases(), st.integers(1, 3))
def test_with_a_tolerance_neighbors_of_the_most_likely_cell_are_kept(case, tolerance):
    plain = case.model.decode(case.batch).ids
    drafts = torch.where(case.integers(2, *plain.shape).bool(), plain, case.actions())
    options = {"draft_ids": drafts, "tolerance": tolerance, "cells": GRID.cells}
    found = case.model.decode(case.batch, **options)
    best = predictions(case, found.ids)
    # Whatever was kept, each token is near what the model says behind the tokens before it.
    assert (distances(found.ids, best) <= tolerance).all()
    # Drafts are kept up to the first that is too far off.
    kept = (distances(drafts, best) <= tolerance).long().cumprod(1).bool()
    assert torch.equal(found.ids[kept], drafts[kept])
    assert torch.equal(found.accepted, kept.sum(1))
    assert found.passes <= case.chunk
    # Committed tokens are not the model's, and stay whatever it thinks of them.
    committed = case.prefixes()
    tokens = case.model.decode(case.batch, committed_ids=committed, **options).ids
    assert torch.equal(tokens[committed >= 0], committed[committed >= 0])


def test_a_step_compiles_without_breaks_and_once_for_a_window():
    case = example()
    plain, drafts = case.model.decode(case.batch).ids, case.actions()
    passes, compiled = case.model.passes, Passes(case.model)
    counter = CompileCounter()
    for name in ("first_ids", "next_ids"):
        setattr(compiled, name, torch.compile(getattr(passes, name), fullgraph=True, backend=counter))
    case.model.passes = compiled
    try:
        for _ in range(2):
            assert torch.equal(case.model.decode(case.batch).ids, plain)
            for wrong in (drafts, plain):
                found = case.model.decode(case.batch, draft_ids=wrong)
                assert torch.equal(found.ids, plain)
    finally:
        case.model.passes = passes
    # Two prefills; a step for each kind of token, and for each number of steps that may be left.
    assert counter.frame_count <= 2 + 3 + case.model.config.action_chunk_size


def test_nothing_waits_within_a_chunk():
    # A graph of the whole chunk can only be had where nothing on the host depends on a value.
    case = example()
    layout = Layout.behind(case.batch.attention_mask, case.chunk - 1)
    cache = case.model.passes.cache(*layout.real_BS.shape)
    prompt, free = case.model.embed(case.batch), torch.full((len(case.batch), case.chunk), -1)
    whole = torch.compile(one_by_one, fullgraph=True, backend="eager")
    tokens = whole(case.model.passes, prompt, layout, cache, free, 0, None)
    assert torch.equal(tokens, case.model.decode(case.batch).ids)


@pytest.mark.wrong_arrays
def test_drafts_that_cannot_be_used():
    case = example()
    model, batch, good = case.model, case.batch, case.actions()
    with pytest.raises(InputError, match="greedy"):
        model.decode(batch, draft_ids=good, temperature=1.0)
    with pytest.raises(InputError, match="tolerance must be"):
        model.decode(batch, draft_ids=good, tolerance=-1)
    with pytest.raises(InputError, match=r"cells=processor\.grid\.cells"):
        model.decode(batch, draft_ids=good, tolerance=1)
    with pytest.raises(InputError, match="draft_ids must be int64"):
        model.decode(batch, draft_ids=good[:, :-1])
    with pytest.raises(InputError, match="draft_ids must be int64"):
        model.decode(batch, draft_ids=good.double())
    with pytest.raises(
        InputError, match=f"draft_ids has 5 where a translation token belongs; these are {TEXT} to"
    ):
        model.decode(batch, draft_ids=torch.full_like(good, 5))
    rotated = good.roll(1, dims=1)
    with pytest.raises(InputError, match=f"committed_ids has .*{int(rotated[0, 0])}.* where a translation"):
        model.decode(batch, committed_ids=rotated)
    with pytest.raises(InputError, match="first of their row"):
        model.decode(batch, committed_ids=torch.cat([torch.full_like(good[:, :1], -1), good[:, 1:]], dim=1))
