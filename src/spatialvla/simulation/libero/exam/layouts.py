"""Where the things of the spatial exam stand: as LIBERO-Spatial has them, or drawn so that a relation holds.

Places are in meters on the table: x away from the robot and towards the camera, which is LIBERO's front, y towards
what LIBERO calls right. (A policy's pictures are mirrored: they show the right of these words on their left.)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

MEANT, OTHER = "akita_black_bowl_1", "akita_black_bowl_2"
"""The bowl that the instruction is about, and its equal."""

PLATE, RAMEKIN, COOKIES = "plate_1", "glazed_rim_porcelain_ramekin_1", "cookies_1"

Places = Mapping[str, np.ndarray]
"""Thing -> (..., 2) meters: where its middle is."""

ROBOT = np.array([-0.66, 0.0])
"""Where the arm's base stands."""

RADIUS = {MEANT: 0.055, OTHER: 0.055, PLATE: 0.070, RAMEKIN: 0.045, COOKIES: 0.045}
"""Meters: of a circle around each thing as seen from above."""

REACH = {MEANT: 0.73, OTHER: 0.73, PLATE: 0.74}
"""Meters from the base. Beyond 0.8 the elbow is stretched, and stays so: a bowl is taken by its rim, up to 5 cm on."""

_GAP = 0.02  # meters between two circles
_LOW, _HIGH = (-0.22, -0.06), (0.17, 0.35)
_BESIDE_STOVE = (-0.09, 0.03)  # nearer than this x to the robot, y has to be larger: the stove stands there
_PLATE_FROM_CABINET = 0.02  # least y of the plate; nearer to the cabinet, the hand that places would meet it
_DRAWS = 4096  # layouts drawn at a time


@dataclass(frozen=True)
class Layout:
    """How the things are placed. name: which the random numbers depend on. draw: one layout, each (2,)."""

    name: str
    draw: Callable[[np.random.Generator], dict[str, np.ndarray]]

    def places(self, seed: int, episode: int) -> dict[str, np.ndarray]:
        """Where the things stand in one episode of the exam of this seed."""
        return self.draw(np.random.default_rng(self.seeds(seed, episode)))

    def seeds(self, seed: int, episode: int) -> list[int]:
        """What all that is random in one episode is drawn by."""
        return [seed, zlib.crc32(self.name.encode()), episode]


# ------------------------------------------------------------------ LIBERO-Spatial's own places

_USUAL = {
    MEANT: (-0.18, 0.32),  # next to the ramekin
    OTHER: (0.13, -0.07),  # next to the cookie box
    PLATE: (0.06, 0.20),
    RAMEKIN: (-0.20, 0.20),
    COOKIES: (0.045, 0.03),  # 2.5 cm nearer than LIBERO's: the ramekin has to find room there, too
}


def _as_usual(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Within a centimeter of the middles of LIBERO-Spatial's regions, as LIBERO's own sampler draws."""
    return {thing: np.array(place) + rng.uniform(-0.01, 0.01, 2) for thing, place in _USUAL.items()}


def _room_for_the_plate(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The same with room for a plate next to one bowl, and the other one nearer, from where the arm gets there, too."""
    places = _as_usual(rng)
    places[MEANT] += [0.0, 0.03]
    for thing in (OTHER, COOKIES):
        places[thing] -= [0.08, 0.0]
    return places


# ------------------------------------------------------------------ relations


def left_of(at: Places) -> np.ndarray:
    """(...) Whether the meant bowl is clearly left of the other one, and as far from the front."""
    aside = at[OTHER] - at[MEANT]
    return np.asarray((aside[..., 1] >= 0.15) & (np.abs(aside[..., 0]) <= 0.08))


def in_front(at: Places) -> np.ndarray:
    """(...) Whether the meant bowl is in front of the cookie box, and the other one behind it."""
    before, behind = at[MEANT] - at[COOKIES], at[COOKIES] - at[OTHER]
    straight = (np.abs(before[..., 1]) <= 0.05) & (np.abs(behind[..., 1]) <= 0.05)
    return np.asarray(straight & (before[..., 0] >= 0.12) & (behind[..., 0] >= 0.12))


def nearest_to_robot(at: Places) -> np.ndarray:
    """(...) Whether the meant bowl is nearer to the robot by 12 cm or more."""
    return np.asarray(_distance(at[OTHER], ROBOT) - _distance(at[MEANT], ROBOT) >= 0.12)


def nearest_to_plate(at: Places) -> np.ndarray:
    """(...) Whether the meant bowl is nearer to the plate by 10 cm or more."""
    return np.asarray(_distance(at[OTHER], at[PLATE]) - _distance(at[MEANT], at[PLATE]) >= 0.10)


def stands_free(at: Places) -> np.ndarray:
    """(...) Whether all things stand apart and in the camera's picture, and the arm reaches what it has to."""
    things = list(at)
    free = at[PLATE][..., 1] > _PLATE_FROM_CABINET
    for index, thing in enumerate(things):
        x, y = at[thing][..., 0], at[thing][..., 1]
        free &= (x > _BESIDE_STOVE[0]) | (y > _BESIDE_STOVE[1])
        free &= y < 0.30 - 0.25 * x  # the picture's edge
        free &= _distance(at[thing], ROBOT) < REACH.get(thing, np.inf)
        for other in things[:index]:
            free &= _distance(at[thing], at[other]) > RADIUS[thing] + RADIUS[other] + _GAP
    return free


def _distance(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(here - there, axis=-1))


def _drawn(
    relation: Callable[[Places], np.ndarray], rows: Mapping[str, tuple[float, float]] | None = None
) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    """All things anywhere on the table, the first such layout in which they stand free and the relation holds.

    rows: thing -> least and largest x that it is looked for at, where the relation would seldom hold otherwise.
    """
    low = {thing: (rows[thing][0] if rows and thing in rows else _LOW[0], _LOW[1]) for thing in RADIUS}
    high = {thing: (rows[thing][1] if rows and thing in rows else _HIGH[0], _HIGH[1]) for thing in RADIUS}

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        while True:
            at = {thing: rng.uniform(low[thing], high[thing], (_DRAWS, 2)) for thing in RADIUS}
            fitting = np.flatnonzero(stands_free(at) & relation(at))
            if len(fitting):
                return {thing: places[fitting[0]] for thing, places in at.items()}

    return draw


_ROWS = {MEANT: (0.02, 0.07), COOKIES: (-0.10, -0.05), OTHER: (-0.22, -0.17)}

USUAL = Layout("usual", _as_usual)
ROOMY = Layout("room for the plate", _room_for_the_plate)
SIDE_BY_SIDE = Layout("left and right", _drawn(left_of))
ONE_BEHIND = Layout("in front and behind", _drawn(in_front, _ROWS))
FROM_ROBOT = Layout("near and far from the robot", _drawn(nearest_to_robot))
FROM_PLATE = Layout("near and far from the plate", _drawn(nearest_to_plate))
