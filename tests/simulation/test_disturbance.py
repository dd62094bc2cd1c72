import numpy as np

from spatialvla.simulation.recording.disturbance import Disturbance

ACTION = np.array([0.1, -0.2, 0.3, 0, 0, 0, 1.0])


def _executed(seed: int, steps: int = 200) -> np.ndarray:
    disturb = Disturbance(np.random.default_rng(seed))
    return np.stack([disturb(ACTION) for _ in range(steps)])


def test_the_same_seed_disturbs_in_the_same_way():
    np.testing.assert_array_equal(_executed(3), _executed(3))


def test_some_episodes_are_calm_and_the_others_are_not():
    calm = [bool((_executed(seed) == ACTION).all()) for seed in range(40)]
    assert 2 <= sum(calm) <= 20


def test_disturbed_episodes_still_follow_the_expert_most_of_the_time():
    executed = np.concatenate([_executed(seed) for seed in range(40)])
    assert np.abs(executed[:, :6] - ACTION[:6]).mean() < 0.2
    assert 0.85 < executed[:, 6].mean() < 1


def test_gripper_mistakes_are_whole():
    executed = np.concatenate([_executed(seed) for seed in range(40)])
    assert set(np.unique(executed[:, 6])) == {0.0, 1.0}


def test_displacements_keep_the_gripper_open_and_within_reach():
    moves = [Disturbance(np.random.default_rng(seed)).displacement() for seed in range(40)]
    assert {len(move) == 0 for move in moves} == {True, False}
    for move in moves:
        assert move.shape[1] == 7
        assert (move[:, 6] == 1).all()
        assert np.abs(move[:, :3]).max(initial=0) <= 1
