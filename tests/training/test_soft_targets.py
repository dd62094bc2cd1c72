import numpy as np
import pytest
import torch

from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.training.guidance.soft_targets import SoftTokenLoss

GRID = ActionGrid.uniform(Bins(theta=4, phi=6, r=3, roll=3, pitch=3, yaw=3))
FIRST = 10


def labels_of(actions):
    return torch.from_numpy(GRID.encode(np.asarray(actions)).reshape(-1)) + FIRST


def logits_of(labels, confidence=20.0):
    return confidence * torch.nn.functional.one_hot(labels, FIRST + GRID.size).float()


def test_a_narrow_target_is_plain_cross_entropy():
    rng = np.random.default_rng(0)
    labels = torch.cat([labels_of(rng.uniform(-1, 1, (20, 7))), torch.tensor([1])])
    logits = torch.from_numpy(rng.standard_normal((len(labels), FIRST + GRID.size))).float()
    soft = SoftTokenLoss(GRID, FIRST, width=1e-3)(logits, labels)
    torch.testing.assert_close(soft, torch.nn.functional.cross_entropy(logits, labels))


def test_a_near_miss_costs_less_than_a_far_one():
    loss = SoftTokenLoss(GRID, FIRST, width=0.4)
    true, near, far = (
        labels_of([[x, y, 0.1, 0.5, 0, 0, 1]]) for x, y in ((0.6, 0.2), (0.6, -0.2), (-0.6, -0.2))
    )
    costs = [float(loss(logits_of(guess), true)) for guess in (true, near, far)]
    assert costs[0] < costs[1] < costs[2]
    plain = SoftTokenLoss(GRID, FIRST, width=1e-3)
    assert float(plain(logits_of(near), true)) == pytest.approx(float(plain(logits_of(far), true)))


def test_the_target_keeps_the_true_cell_most_likely():
    loss = SoftTokenLoss(GRID, FIRST, width=0.2)
    shares = loss.get_buffer("shares0")
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(len(shares)))
    assert (shares.argmax(dim=1) == torch.arange(len(shares))).all()
