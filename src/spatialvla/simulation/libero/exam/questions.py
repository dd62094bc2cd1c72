"""The questions of the spatial exam: by skill, pairs of tasks that differ in space alone, or in what is said of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from spatialvla.errors import InputError
from spatialvla.simulation.libero.exam.layouts import (
    COOKIES,
    FROM_PLATE,
    FROM_ROBOT,
    MEANT,
    ONE_BEHIND,
    OTHER,
    PLATE,
    RAMEKIN,
    ROOMY,
    SIDE_BY_SIDE,
    USUAL,
    Layout,
)

SUITE = "spatial_exam"

Exchange = tuple[str, str]
"""Two things that take each other's places."""

BOWLS: Exchange = (MEANT, OTHER)
"""So that the picture stays and the other bowl is meant: they look alike."""


@dataclass(frozen=True)
class Question:
    """One task of the exam: a bowl is to be put on the plate, and an equal one stands elsewhere.

    where: what is said of the bowl's place. layout: how the things stand, before some are exchanged.
    exchanged: what is, one after the other. raised: meters by which the table is higher than LIBERO's.
    note: what the question has beside its instruction, in words. said: the whole instruction, in place of `where`.
    """

    where: str
    layout: Layout
    exchanged: tuple[Exchange, ...] = ()
    raised: float = 0.0
    note: str = ""
    said: str = ""

    @property
    def instruction(self) -> str:
        """What the policy is told."""
        return self.said or f"pick up the black bowl {self.where} and place it on the plate"

    @property
    def label(self) -> str:
        """The instruction, and in brackets what is changed beside it."""
        return f"{self.instruction} [{self.note}]" if self.note else self.instruction

    def places(self, seed: int, episode: int) -> dict[str, np.ndarray]:
        """Where each thing stands, (2,) meters, in one episode of the exam of this seed."""
        places = self.layout.places(seed, episode)
        for one, other in self.exchanged:
            places[one], places[other] = places[other], places[one]
        return places


@dataclass(frozen=True)
class Pair:
    """Two questions that differ in space alone, or in what is said of it. name: what tells them apart, in words."""

    name: str
    first: Question
    second: Question

    @property
    def numbers(self) -> tuple[int, int]:
        """The questions' numbers, which are those of the suite's tasks."""
        return QUESTIONS.index(self.first), QUESTIONS.index(self.second)


_RAMEKIN, _COOKIES = "next to the ramekin", "next to the cookie box"
_BLANK = "."
"""As little as can be said: no policy takes an empty instruction."""
_NO_PLACE = "pick up the black bowl and place it on the plate"


def _heights(centimeters: int) -> Pair:
    lowered, raised = (
        Question(_RAMEKIN, USUAL, raised=sign * centimeters / 100, note=f"table {word} {centimeters} cm")
        for sign, word in ((-1, "lowered"), (1, "raised"))
    )
    return Pair(f"table lowered or raised {centimeters} cm", lowered, raised)


def _either_bowl(name: str, first: str, second: str, layout: Layout) -> Pair:
    """The same picture, and either bowl is meant."""
    return Pair(name, Question(first, layout), Question(second, layout, (BOWLS,)))


def _unsaid(name: str, said: str) -> Pair:
    """The same picture and the same words, which leave open which bowl is meant."""
    return Pair(
        name,
        Question("", USUAL, note="the one next to the ramekin counts", said=said),
        Question("", USUAL, (BOWLS,), note="the one next to the cookie box counts", said=said),
    )


_AS_USUAL = _either_bowl("next to the ramekin or the cookie box", _RAMEKIN, _COOKIES, USUAL)
_SWAPPED = "ramekin and cookie box exchanged"
_EXCHANGED = Pair(
    f"the same, {_SWAPPED}",
    Question(_RAMEKIN, USUAL, ((RAMEKIN, COOKIES), BOWLS), note=_SWAPPED),
    Question(_COOKIES, USUAL, ((RAMEKIN, COOKIES),), note=_SWAPPED),
)
_PLATE = "plate and ramekin exchanged"

SKILLS: dict[str, tuple[Pair, ...]] = {
    "height": (_heights(5), _heights(10)),
    "left and right": (
        _either_bowl("on the left or the right", "on the left", "on the right", SIDE_BY_SIDE),
    ),
    "in front and behind": (
        _either_bowl(
            "in front of or behind the cookie box",
            "in front of the cookie box",
            "behind the cookie box",
            ONE_BEHIND,
        ),
    ),
    "nearest and farthest": (
        _either_bowl("from the robot", "nearest to the robot", "farthest from the robot", FROM_ROBOT),
        _either_bowl("from the plate", "nearest to the plate", "farthest from the plate", FROM_PLATE),
    ),
    "another instruction": (_AS_USUAL, _EXCHANGED),
    "swapped places": (
        Pair(f"{_SWAPPED}, {_RAMEKIN}", _AS_USUAL.first, _EXCHANGED.first),
        Pair(f"{_SWAPPED}, {_COOKIES}", _AS_USUAL.second, _EXCHANGED.second),
        Pair(
            _PLATE,
            Question(_COOKIES, ROOMY, (BOWLS,), note="more room"),
            Question(_COOKIES, ROOMY, (BOWLS, (PLATE, RAMEKIN)), note=_PLATE),
        ),
    ),
    "no place said": (_unsaid("a full stop", _BLANK), _unsaid("the bowl, but not which", _NO_PLACE)),
}
"""Skill -> the pairs that ask for it. No question is in two pairs of a skill, so that these are independent."""

QUESTIONS = tuple(
    dict.fromkeys(
        question for pairs in SKILLS.values() for pair in pairs for question in (pair.first, pair.second)
    )
)
"""The suite's tasks, in order."""


def is_exam(suite: str) -> bool:
    """Whether the name is one of an exam's, of any seed."""
    return suite.startswith(SUITE)


def seed_of(suite: str) -> int:
    """The seed that an exam is drawn by: 0 for `spatial_exam`, 7 for `spatial_exam_7`; InputError for other names."""
    found = re.fullmatch(rf"{SUITE}(?:_(\d+))?", suite)
    if not found:
        raise InputError(
            f"There is no exam {suite!r}; say {SUITE}, or {SUITE}_7 for the one that is drawn with seed 7."
        )
    return int(found[1] or 0)
