"""Rollouts during training play a suite in the units that the policy learned of it."""

from pathlib import Path

import pytest

from spatialvla.cli.training_run import _rollout
from spatialvla.evaluation.play import runner


class Stopped(Exception):
    """Nothing is played."""


@pytest.mark.parametrize("suite", ["libero_goal", "libero_object"])
def test_rollouts_are_in_the_units_learned_of_the_suite(monkeypatch, tmp_path, suite):
    played = []

    def evaluate(policy, suite, episodes, **others):
        played.append((policy.dataset, others["settings"].dataset, suite, episodes))
        raise Stopped

    monkeypatch.setattr(runner, "evaluate", evaluate)
    with pytest.raises(Stopped):
        _rollout(suite, 2)(Path("nano-wrist"), tmp_path)
    assert played == [(suite, suite, suite, 2)]
