"""Foreign tokens: what the decoder goes on from is mixed up, what it shall say is not."""

import numpy as np
import torch

from spatialvla.batch import IGNORED, Batch
from spatialvla.training.feed.given_tokens import with_foreign_tokens


def _batch():
    """Two prompts of different length before tokens 10, 11, 12 and 20, 21, 22, padded on the right."""
    input_ids = torch.tensor([[1, 2, 10, 11, 12, 0], [1, 2, 3, 20, 21, 22]])
    labels = torch.where(input_ids >= 10, input_ids, IGNORED)
    return Batch(input_ids, input_ids > 0, torch.zeros(2, 3, 4, 4), torch.eye(3).repeat(2, 1, 1), labels)


def test_tokens_are_exchanged_place_by_place():
    batch = _batch()
    seen = set()
    for seed in range(50):
        mixed = with_foreign_tokens(batch, 0.5, np.random.default_rng(seed))
        assert torch.equal(mixed.labels, batch.labels)
        is_action = batch.labels != IGNORED
        assert torch.equal(mixed.input_ids[~is_action], batch.input_ids[~is_action])
        assert torch.equal(mixed.input_ids[is_action] % 10, batch.labels[is_action] % 10)
        seen |= set(mixed.input_ids[0, 2:5].tolist())
    assert seen == {10, 11, 12, 20, 21, 22}


def test_a_share_of_zero_changes_nothing():
    batch = _batch()
    assert with_foreign_tokens(batch, 0, np.random.default_rng(0)) is batch
