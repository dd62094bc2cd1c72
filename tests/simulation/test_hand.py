import numpy as np

from spatialvla.simulation.libero.skills.hand import approach, turn_between

AHEAD = np.array([0, 0, -1.0])


def test_on_the_line_the_hand_goes_straight_on():
    np.testing.assert_allclose(approach(0.05 * AHEAD, AHEAD, standoff=0.08), 0.05 * AHEAD)


def test_beside_the_line_the_hand_first_goes_to_it_before_the_end():
    error = 0.05 * AHEAD + np.array([0.06, 0, 0])
    np.testing.assert_allclose(approach(error, AHEAD, standoff=0.08), [0.036, 0, 0.03])


def test_what_is_too_near_backs_off_before_it_goes_sideways():
    move = approach(np.array([0.06, 0, 0]), AHEAD, standoff=0.08)
    np.testing.assert_allclose(move, [0, 0, 0.08])


def test_it_stops_before_what_is_in_the_way_and_backs_off_from_it():
    error = 0.3 * AHEAD + np.array([0.06, 0, 0])
    np.testing.assert_allclose(approach(error, AHEAD, 0.08, furthest=1.0), [0.06, 0, -0.22])
    np.testing.assert_allclose(approach(error, AHEAD, 0.08, furthest=0.0), [0.06, 0, 0])
    np.testing.assert_allclose(approach(error, AHEAD, 0.08, furthest=-0.1), [0, 0, 0.1])


def test_what_is_turned_away_waits_before_the_end():
    np.testing.assert_allclose(approach(0.08 * AHEAD, AHEAD, 0.08, turned_away=1.0), 0, atol=1e-12)


def test_the_angle_between_rotations():
    turned = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(turn_between(np.eye(3), turned), np.pi / 2)
