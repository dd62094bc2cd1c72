import numpy as np

from spatialvla.simulation.recording.policy_takeover import SHARE, Takeover
from spatialvla.types import ActionChunk, Observation

LONGEST = 260
LAST_STEP = round(SHARE * LONGEST)
OBSERVATION = Observation(np.zeros((4, 4, 3), np.uint8), "pick up the bowl")


class CountingPolicy:
    """Its n-th chunk of 4 holds the actions 4n, 4n + 1, …"""

    def __init__(self):
        self.asked = 0

    def predict(self, observations):
        first, self.asked = 4 * self.asked, self.asked + 1
        numbers = np.arange(first, first + 4, dtype=float)
        return [ActionChunk(np.repeat(numbers[:, None], 7, axis=1), np.zeros((4, 3), np.int64))]


def _driven(seed, fps=20, speed=0.01):
    """What is done at each step while the hand moves on by so many meters a step."""
    policy = CountingPolicy()
    longest = LONGEST * fps // 20
    takeover = Takeover(policy, np.random.default_rng(seed), longest, fps)
    hands = np.linspace(0, speed * longest, longest)
    return [takeover(lambda: OBSERVATION, np.array([0, hand, 0])) for hand in hands], policy


def test_policy_and_expert_take_turns_and_the_expert_finishes():
    for seed in range(20):
        actions, _ = _driven(seed)
        by_policy = np.array([action is not None for action in actions])
        assert 0.2 < by_policy[:LAST_STEP].mean() < 1
        assert not by_policy[LAST_STEP:].any()


def test_most_episodes_begin_as_a_real_run_does():
    first = [_driven(seed)[0][0] is not None for seed in range(100)]
    assert 0.6 < np.mean(first) < 1


def test_chunks_are_driven_in_order_and_never_across_a_pause():
    for seed in range(20):
        actions, policy = _driven(seed)
        numbers = np.array([-1 if action is None else action[0] for action in actions])
        for step in np.flatnonzero(numbers >= 0):
            continued = step > 0 and numbers[step - 1] >= 0 and numbers[step] == numbers[step - 1] + 1
            assert continued or numbers[step] % 4 == 0
        assert policy.asked <= np.ceil((numbers >= 0).sum() / 4) + len(actions) / 24


def test_turns_take_as_long_where_there_are_fewer_steps_a_second():
    for seed in range(20):
        by_policy = np.array([action is not None for action in _driven(seed, fps=5)[0]])
        last = round(SHARE * LONGEST / 4)
        assert 0.2 < by_policy[:last].mean() < 1
        assert not by_policy[last:].any()


def test_a_policy_that_is_stuck_hands_the_wheel_back():
    for fps, steps in ((20, 20), (5, 5)):
        longest = 0
        for seed in range(20):
            by_policy = np.array([action is not None for action in _driven(seed, fps, speed=0.0004)[0]])
            changes = np.flatnonzero(np.diff(np.r_[0, by_policy, 0]))
            longest = max(longest, int((changes[1::2] - changes[::2]).max()))
        assert longest == steps
