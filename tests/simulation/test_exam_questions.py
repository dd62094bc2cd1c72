"""The spatial exam as it is drawn: pairs differ in space alone, and what is said of a bowl is so."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.simulation.libero.exam.layouts import (
    COOKIES,
    MEANT,
    OTHER,
    PLATE,
    RADIUS,
    RAMEKIN,
    ROBOT,
)
from spatialvla.simulation.libero.exam.questions import QUESTIONS, SKILLS, seed_of

EPISODES = range(40)
BOWLS = {MEANT, OTHER}


def apart(places, one, other):
    return float(np.linalg.norm(places[one] - places[other]))


def from_robot(places, bowl):
    return float(np.linalg.norm(places[bowl] - ROBOT))


# What is said -> how much better the meant bowl fits it than the other one does, in meters.
FITS = {
    "on the left": lambda p: p[OTHER][1] - p[MEANT][1],
    "on the right": lambda p: p[MEANT][1] - p[OTHER][1],
    "in front of the cookie box": lambda p: min(p[MEANT][0] - p[COOKIES][0], p[COOKIES][0] - p[OTHER][0]),
    "behind the cookie box": lambda p: min(p[COOKIES][0] - p[MEANT][0], p[OTHER][0] - p[COOKIES][0]),
    "nearest to the robot": lambda p: from_robot(p, OTHER) - from_robot(p, MEANT),
    "farthest from the robot": lambda p: from_robot(p, MEANT) - from_robot(p, OTHER),
    "nearest to the plate": lambda p: apart(p, OTHER, PLATE) - apart(p, MEANT, PLATE),
    "farthest from the plate": lambda p: apart(p, MEANT, PLATE) - apart(p, OTHER, PLATE),
    "next to the ramekin": lambda p: apart(p, OTHER, RAMEKIN) - apart(p, MEANT, RAMEKIN),
    "next to the cookie box": lambda p: apart(p, OTHER, COOKIES) - apart(p, MEANT, COOKIES),
}


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.label)
def test_what_is_said_of_the_meant_bowl_is_so_and_clearly_not_of_the_other_one(question):
    for episode in EPISODES:
        places = question.places(0, episode)
        if question.where:
            assert f" {question.where} " in question.instruction
            assert FITS[question.where](places) > 0.09
        for one, other in combinations(places, 2):
            assert apart(places, one, other) > RADIUS[one] + RADIUS[other]


def test_halves_of_the_same_picture_differ_in_which_bowl_is_meant_and_nothing_else():
    same_picture = [skill for skill in SKILLS if skill not in ("height", "swapped places")]
    for pair in (pair for skill in same_picture for pair in SKILLS[skill]):
        assert pair.first.raised == pair.second.raised == 0
        for episode in EPISODES:
            first, second = pair.first.places(0, episode), pair.second.places(0, episode)
            np.testing.assert_array_equal(first[MEANT], second[OTHER])
            np.testing.assert_array_equal(first[OTHER], second[MEANT])
            for thing in set(first) - BOWLS:
                np.testing.assert_array_equal(first[thing], second[thing])
        said = pair.first.instruction == pair.second.instruction
        assert said == (pair in SKILLS["no place said"])


def test_halves_at_two_heights_differ_in_height_alone():
    assert [(pair.first.raised, pair.second.raised) for pair in SKILLS["height"]] == [
        (-0.05, 0.05),
        (-0.1, 0.1),
    ]
    for pair in SKILLS["height"]:
        assert pair.first.instruction == pair.second.instruction
        first, second = pair.first.places(0, 3), pair.second.places(0, 3)
        for thing in first:
            np.testing.assert_array_equal(first[thing], second[thing])


def test_swapped_halves_say_the_same_of_a_picture_in_which_two_other_things_are_exchanged():
    exchanged = ((RAMEKIN, COOKIES), (RAMEKIN, COOKIES), (RAMEKIN, PLATE))
    for pair, (one, other) in zip(SKILLS["swapped places"], exchanged, strict=True):
        assert pair.first.instruction == pair.second.instruction
        first, second = pair.first.places(0, 1), pair.second.places(0, 1)
        np.testing.assert_array_equal(first[one], second[other])
        np.testing.assert_array_equal(first[other], second[one])
        bowls = [{tuple(places[bowl]) for bowl in BOWLS} for places in (first, second)]
        assert bowls[0] == bowls[1]


def test_a_question_is_one_task_and_in_one_pair_of_a_skill():
    assert len(QUESTIONS) == len({question.label for question in QUESTIONS}) == 22
    for pairs in SKILLS.values():
        assert set(Counter(number for pair in pairs for number in pair.numbers).values()) == {1}
    assert all(question.instruction for question in QUESTIONS)


def test_an_exam_is_drawn_by_its_seed():
    (pair,) = SKILLS["left and right"]
    drawn = [pair.first.places(seed, 2)[MEANT] for seed in (0, 0, 7)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 0.001
    assert (seed_of("spatial_exam"), seed_of("spatial_exam_7")) == (0, 7)
    with pytest.raises(InputError, match="spatial_exam_7 for the one that is drawn with seed 7"):
        seed_of("spatial_exam_easy")
