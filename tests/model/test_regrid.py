"""Regridding a model: what tokens mean and what they score moves to the new cells, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spatialvla import ActionGrid, Processor, SpatialVLA
from spatialvla.actions.bins import Bins
from spatialvla.actions.embeddings import adapt_embeddings
from spatialvla.errors import CheckpointError
from spatialvla.model.regrid import regrid

CHECKPOINT = Path(__file__).parent.parent / "goldens" / "reference" / "checkpoint"
OLD = Processor.from_pretrained(CHECKPOINT).grid
EMBEDDINGS, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
CHANGED = {EMBEDDINGS, HEAD, "spatial_embed_tokens.weight"}


@pytest.mark.parametrize("bins", [OLD.bins, Bins(theta=3, phi=6, r=5, roll=3, pitch=5, yaw=3)])
def test_both_ends_of_a_token_are_resampled(bins, tmp_path):
    new = ActionGrid.fit(np.random.default_rng(0).normal(0.1, 0.3, (500, 7)).clip(-1, 1), 0.1, bins)
    before = SpatialVLA.from_pretrained(CHECKPOINT).state_dict()
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    first = model.config.action_token_begin_idx
    regrid(model, OLD, new)
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == CHANGED
    assert torch.equal(after[HEAD][:first], before[HEAD][:first])
    assert torch.equal(after[EMBEDDINGS][:first], before[EMBEDDINGS][:first])
    for name, rows in (("spatial_embed_tokens.weight", slice(None)), (HEAD, slice(first, None))):
        expected = torch.from_numpy(adapt_embeddings(before[name][rows].numpy(), OLD, new))
        assert torch.equal(after[name][rows], expected)
    assert torch.equal(after[EMBEDDINGS][first:], after["spatial_embed_tokens.weight"])
    assert model.config.text.vocab_size == first + new.size
    model.save_pretrained(tmp_path)
    again = SpatialVLA.from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in after.items())


def test_the_same_grid_changes_nothing_but_the_mirrored_rows():
    before, model = (
        SpatialVLA.from_pretrained(CHECKPOINT).state_dict(),
        SpatialVLA.from_pretrained(CHECKPOINT),
    )
    regrid(model, OLD, OLD)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_logits_at_new_cells_lie_between_those_of_the_old():
    """A head that is linear in a cell's theta scores the new cells as their theta says."""
    new = ActionGrid.fit(np.random.default_rng(1).normal(0, 0.3, (500, 7)).clip(-1, 1), 0.3, OLD.bins)
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    first = model.config.action_token_begin_idx

    def thetas(grid):
        return np.repeat(grid.centers["theta"], grid.bins.phi * grid.bins.r)

    head = model.language_model.lm_head.weight
    with torch.no_grad():
        head[first : first + OLD.n_translation] = torch.from_numpy(thetas(OLD)).float()[:, None]
    regrid(model, OLD, new)
    inside = np.clip(thetas(new), thetas(OLD).min(), thetas(OLD).max())
    scored = model.language_model.lm_head.weight[first : first + new.n_translation, 0].detach().numpy()
    np.testing.assert_allclose(scored, inside, atol=1e-5)
    assert np.abs(thetas(new) - thetas(OLD)).max() > 0.1


def test_keeps_dtype_and_what_is_frozen():
    model = SpatialVLA.from_pretrained(CHECKPOINT, dtype=torch.bfloat16)
    model.language_model.model.embed_tokens.weight.requires_grad_(False)
    regrid(model, OLD, ActionGrid.uniform(Bins(2, 2, 2, 2, 2, 2)))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not model.language_model.model.embed_tokens.weight.requires_grad
    assert model.language_model.lm_head.weight.requires_grad


def test_another_models_grid_is_refused():
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    with pytest.raises(CheckpointError, match="128 translation and 64 rotation"):
        regrid(model, ActionGrid.uniform(), OLD)
