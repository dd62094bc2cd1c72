"""What statistics clip: how often, and how far beyond their ends."""

import numpy as np
import pytest

from spatialvla.actions.clipping import Clipping, clipping
from spatialvla.actions.statistics import ActionStatistics


def test_a_seldom_but_fast_turn_is_clipped_to_half():
    """Two rotations in a thousand of 0.3 about x, the others within 0.15; what rests clips nothing."""
    actions = np.zeros((1_000, 7))
    actions[:, 3] = np.linspace(-0.15, 0.15, 1_000)
    actions[:2, 3] = 0.3
    known = ActionStatistics.from_actions(actions).with_rotations_to(np.array([0.15, 0, 0]))
    found = clipping(known.beyond(actions))
    assert found.pop("roll") == Clipping(0.002, pytest.approx(1), pytest.approx(1))
    assert set(found.values()) == {Clipping(0, 0, 0)}


def test_either_side_counts_and_the_farthest_is_told():
    beyond = np.zeros((4, 7))
    beyond[:3, 0] = -0.5, 0.25, 0.75
    assert clipping(beyond)["x"] == Clipping(0.75, 0.5, 0.75)
