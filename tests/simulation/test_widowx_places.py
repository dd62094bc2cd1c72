"""Start states of WidowX demonstrations: around SimplerEnv's places, and never at them."""

import numpy as np

from spatialvla.simulation.widowx.places import CLOSEST, MARGIN, NEAR, Places, draw_places

CORNERS = np.array([[-0.235, -0.075], [-0.235, 0.075], [-0.085, -0.075], [-0.085, 0.075]])
TURNS = np.array([[[0, 0, 0, 1.0], [1.0, 0, 0, 0]], [[np.sqrt(0.5), 0, 0, -np.sqrt(0.5)], [1.0, 0, 0, 0]]])
TABLE = [
    Places(np.array([[*source, 0.8875], [*target, 0.8695]]), turn)
    for source in CORNERS
    for target in CORNERS
    if (source != target).any()
    for turn in TURNS
]
"""The 24 episodes of the carrot and the plate."""

SINK = [Places(np.array([[-0.115, y, 0.933], [-0.125, 0.025, 1.0]]), TURNS[0]) for y in (0.191, 0.201, 0.211)]
"""Where the eggplant lies in the sink, the basket being a part of the photograph."""


def drawn(stored: list[Places], count: int = 400) -> list[Places]:
    return [draw_places(np.random.default_rng(seed), stored) for seed in range(count)]


def test_no_drawn_pair_of_places_is_a_stored_one_nor_near_it():
    for stored in (TABLE, SINK):
        for places in drawn(stored):
            for other in stored:
                shift = np.linalg.norm((places.positions - other.positions)[:, :2], axis=1)
                assert shift.max() >= NEAR
    places = Places(TABLE[0].positions + np.array([0.01, 0.01, 0]), TABLE[5].orientations)
    assert places.near(TABLE[0]), "14 mm away, and turned"
    assert not places.near(TABLE[8])


def test_places_fill_a_rectangle_around_the_stored_ones():
    positions = np.stack([places.positions for places in drawn(TABLE)])
    low, high = [*(CORNERS.min(axis=0) - MARGIN), 0.8875], [*(CORNERS.max(axis=0) + MARGIN), 0.8875]
    assert (positions[:, 0] >= low).all()
    assert (positions[:, 0] <= high).all()
    np.testing.assert_allclose(positions[:, 0].min(axis=0), low, atol=0.01)
    np.testing.assert_allclose(positions[:, 0].max(axis=0), high, atol=0.01)
    distances = [places.distance for places in drawn(TABLE)]
    assert min(distances) >= CLOSEST * 0.15


def test_things_are_turned_by_any_angle_about_the_plumb_line_alone():
    w, x, y, z = np.stack([places.orientations[0] for places in drawn(TABLE)]).T
    np.testing.assert_allclose(w**2 + z**2, 1, atol=1e-12)
    np.testing.assert_allclose([x, y], 0, atol=1e-12)
    angles = np.mod(2 * np.arctan2(z, w), 2 * np.pi)
    assert np.histogram(angles, bins=8, range=(0, 2 * np.pi))[0].min() > 25


def test_what_always_stands_in_the_same_place_stays_there():
    for places in drawn(SINK, 50):
        np.testing.assert_array_equal(places.positions[1], SINK[0].positions[1])
        np.testing.assert_array_equal(places.orientations[1], SINK[0].orientations[1])


def test_the_same_seed_draws_the_same_places():
    first, again = (draw_places(np.random.default_rng(3), TABLE) for _ in range(2))
    np.testing.assert_array_equal(first.positions, again.positions)
    np.testing.assert_array_equal(first.orientations, again.orientations)
