"""The questions of the spatial exam: by skill, pairs of tasks that differ in space alone, or in what is said of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


Pair = tuple[Question, Question]

_RAMEKIN, _COOKIES = "next to the ramekin", "next to the cookie box"
_SWAPPED: Exchange = (RAMEKIN, COOKIES)
_NO_PLACE = "pick up the black bowl and place it on the plate"

_BLANK = "."
"""As little as can be said: no policy takes an empty instruction."""


def _at_height(centimeters: int) -> Question:
    note = f"table {'raised' if centimeters > 0 else 'lowered'} {abs(centimeters)} cm"
    return Question(_RAMEKIN, USUAL, raised=centimeters / 100, note=note)


def _either_bowl(first: str, second: str, layout: Layout) -> Pair:
    """The same picture, and either bowl is meant."""
    return Question(first, layout), Question(second, layout, (BOWLS,))


def _not_said(said: str) -> Pair:
    """The same picture and the same words, which leave open which bowl is meant."""
    return (
        Question("", USUAL, note="the one next to the ramekin counts", said=said),
        Question("", USUAL, (BOWLS,), note="the one next to the cookie box counts", said=said),
    )


_AS_USUAL = _either_bowl(_RAMEKIN, _COOKIES, USUAL)
_LANDMARKS_SWAPPED = (
    Question(_RAMEKIN, USUAL, (_SWAPPED, BOWLS), note="ramekin and cookie box exchanged"),
    Question(_COOKIES, USUAL, (_SWAPPED,), note="ramekin and cookie box exchanged"),
)
_PLATE_SWAPPED = (
    Question(_COOKIES, ROOMY, (BOWLS,), note="more room"),
    Question(_COOKIES, ROOMY, (BOWLS, (PLATE, RAMEKIN)), note="plate and ramekin exchanged"),
)

SKILLS: dict[str, tuple[Pair, ...]] = {
    "height": ((_at_height(-5), _at_height(5)), (_at_height(-10), _at_height(10))),
    "left and right": (_either_bowl("on the left", "on the right", SIDE_BY_SIDE),),
    "in front and behind": (_either_bowl("in front of the cookie box", "behind the cookie box", ONE_BEHIND),),
    "nearest and farthest": (
        _either_bowl("nearest to the robot", "farthest from the robot", FROM_ROBOT),
        _either_bowl("nearest to the plate", "farthest from the plate", FROM_PLATE),
    ),
    "another instruction": (_AS_USUAL, _LANDMARKS_SWAPPED),
    "swapped places": (*zip(_AS_USUAL, _LANDMARKS_SWAPPED, strict=True), _PLATE_SWAPPED),
    "no instruction": (_not_said(_BLANK), _not_said(_NO_PLACE)),
}
"""Skill -> the pairs that ask for it. No question is in two pairs of a skill, so that these are independent."""

QUESTIONS = tuple(dict.fromkeys(question for pairs in SKILLS.values() for pair in pairs for question in pair))
"""The suite's tasks, in order."""
