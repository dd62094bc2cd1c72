"""What a run says of actions that are likely wrong, before it learns them."""

from dataclasses import dataclass, replace

from fake_source import FakeSource

from spatialvla.actions.units import ActionUnits
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.training.start.doubts import doubts

ARM = FakeSource("arm", (10,) * 3)  # moves by up to 9 a step, and opens and closes its gripper


@dataclass
class Scaled(FakeSource):
    """Its gripper goes to `opening` in place of 1."""

    opening: float = 1.0

    def episode(self, index):
        episode = super().episode(index)
        actions = episode.actions.copy()
        actions[:, 6] *= self.opening
        return replace(episode, actions=actions)


def said(source):
    return doubts(TrainingMixture.open([source]))


def test_a_gripper_in_meters_is_told_as_it_would_be_learned_always_closed():
    (sentence,) = said(Scaled("arm", (10,) * 3, opening=0.08))
    assert sentence.startswith("arm: the gripper goes from 0 to 0.08, which is always closed")
    (sentence,) = said(Scaled("arm", (10,) * 3, opening=0.0))
    assert sentence == "arm: the gripper never changes; it is 0 all the time."


def test_a_gripper_that_opens_to_the_half_changes():
    assert said(Scaled("arm", (10,) * 3, opening=0.5)) == []


def test_a_gripper_in_percent_is_told_as_it_would_be_learned_open_from_half_a_percent_on():
    (sentence,) = said(Scaled("arm", (10,) * 3, opening=100.0))
    assert sentence.startswith("arm: the gripper goes from 0 to 100, outside of 0 (closed) to 1 (open)")
    assert said(Scaled("arm", (10,) * 3, opening=1.05)) == []


def test_steps_that_no_arm_can_make_are_told_where_units_are_known():
    assert said(ARM) == []
    assert said(replace(ARM, units=ActionUnits(meters=0.01, radians=0.01))) == []
    (sentence,) = said(replace(ARM, units=ActionUnits(meters=1.0, radians=1.0)))
    assert sentence.startswith("arm: the translation reaches")
    assert "may be millimeters" in sentence
