import numpy as np
import pytest

from spatialvla.simulation.libero.skills.boxes import Boxes
from spatialvla.simulation.libero.skills.grasping import (
    DEPTH,
    RADIUS,
    WALL_DEPTH,
    WALL_LEAN,
    body_grasp,
    rim_grasp,
    wall_grasp,
)

BOWL = np.array([0.1, 0.2, 0.9])
FAR_AWAY = Boxes(np.array([[5.0, 5, 5]]), np.eye(3)[None], np.full((1, 3), 0.1))
GRIPPER = BOWL + np.array([0, 0, 0.3])


def _wall(center: list[float], half: list[float]) -> Boxes:
    return Boxes(np.array([center]), np.eye(3)[None], np.array([half]))


def test_an_upright_bowl_is_taken_without_turning_the_hand():
    grasp = rim_grasp(BOWL, np.eye(3), FAR_AWAY, GRIPPER, floor=0.9)
    assert grasp.yaw == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(grasp.position[:2], BOWL[:2] + np.array([0, RADIUS]), atol=1e-9)


def test_the_bowls_own_heading_does_not_matter():
    turned = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
    expected = rim_grasp(BOWL, np.eye(3), FAR_AWAY, GRIPPER, floor=0.9)
    np.testing.assert_allclose(
        rim_grasp(BOWL, turned, FAR_AWAY, GRIPPER, 0.9).position, expected.position, atol=1e-9
    )


def test_a_wall_beside_the_rim_moves_the_grasp_elsewhere():
    beside = _wall([0.1, 0.2 + 0.08, 0.95], [0.2, 0.005, 0.1])
    grasp = rim_grasp(BOWL, np.eye(3), beside, GRIPPER, floor=0.9)
    assert grasp.position[1] < BOWL[1] + 0.02


def test_a_bowl_on_its_side_is_taken_above_the_floor():
    lying = np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]])
    grasp = rim_grasp(BOWL + np.array([0, 0, 0.05]), lying, FAR_AWAY, GRIPPER, floor=0.91)
    assert grasp.position[2] > 0.91


def test_a_leaning_hand_follows_the_wall_outwards():
    grasp = rim_grasp(BOWL, np.eye(3), FAR_AWAY, GRIPPER, floor=0.9, leaning=True)
    assert (grasp.yaw, grasp.lean) == (pytest.approx(0, abs=1e-9), WALL_LEAN)


def test_a_hand_leans_away_from_what_hangs_over_the_bowl():
    shelf = _wall([0.1, 0.2 + 0.06, 1.1], [0.2, 0.05, 0.03])
    upright = rim_grasp(BOWL, np.eye(3), shelf, GRIPPER, floor=0.9)
    assert upright.position[1] > BOWL[1]
    leaning = rim_grasp(BOWL, np.eye(3), shelf, GRIPPER, floor=0.9, leaning=True)
    assert leaning.position[1] < BOWL[1]


def test_a_box_is_taken_across_its_narrow_side():
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    box = Boxes(BOWL[None], turn[None], np.array([[0.04, 0.02, 0.009]]))
    grasp = body_grasp(turn, box, FAR_AWAY, fingertip=0.012)
    assert grasp.yaw == pytest.approx(np.arctan2(0.6, 0.8))
    np.testing.assert_allclose(grasp.position, BOWL + np.array([0, 0, 0.003]), atol=1e-9)


def test_a_round_thing_is_taken_without_turning_the_hand_and_below_its_top():
    turns = [np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) for c, s in ((1, 0), (np.sqrt(0.5), np.sqrt(0.5)))]
    can = Boxes(np.stack([BOWL, BOWL]), np.stack(turns), np.full((2, 3), [0.02, 0.02, 0.06]))
    grasp = body_grasp(np.eye(3), can, FAR_AWAY, fingertip=0.012)
    assert grasp.yaw == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(grasp.position, BOWL + np.array([0, 0, 0.06 - DEPTH]), atol=1e-9)


def test_what_stands_upright_along_another_axis_is_taken_the_same():
    upright = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
    bottle = Boxes(BOWL[None], upright[None], np.array([[0.04, 0.06, 0.015]]))
    grasp = body_grasp(upright, bottle, FAR_AWAY, fingertip=0.012)
    assert abs(grasp.yaw) == pytest.approx(np.pi / 2)


def _mug() -> Boxes:
    """Walls in +x, -x, +y and -y around a floor, 8 cm wide and 10 cm high."""
    sides = np.array([[0.04, 0, 0.05], [-0.04, 0, 0.05], [0, 0.04, 0.05], [0, -0.04, 0.05], [0, 0, 0.004]])
    half = np.array([[0.003, 0.04, 0.05]] * 2 + [[0.04, 0.003, 0.05]] * 2 + [[0.04, 0.04, 0.004]])
    return Boxes(BOWL + sides, np.stack([np.eye(3)] * 5), half)


def test_a_mug_is_taken_by_the_wall_that_needs_no_turning():
    across = body_grasp(np.eye(3), _mug(), FAR_AWAY, fingertip=0.012)
    assert across.width > 0.08  # more than the fingers open
    grasp = wall_grasp(_mug(), FAR_AWAY, GRIPPER)
    assert grasp is not None
    assert grasp.yaw == pytest.approx(0)
    np.testing.assert_allclose(np.abs(grasp.position - BOWL), [0, 0.04, 0.1 - WALL_DEPTH], atol=1e-9)


def test_a_mug_between_neighbors_is_taken_by_another_wall():
    beside = Boxes(
        BOWL + np.array([[0, 0.1, 0.05], [0, -0.1, 0.05]]), np.stack([np.eye(3)] * 2), np.full((2, 3), 0.03)
    )
    grasp = wall_grasp(_mug(), beside, GRIPPER)
    assert grasp is not None
    assert abs(grasp.position[0] - BOWL[0]) == pytest.approx(0.04)


def test_a_solid_block_has_no_wall_to_be_taken_by():
    assert wall_grasp(_wall([0, 0, 1], [0.05, 0.05, 0.05]), FAR_AWAY, GRIPPER) is None


def test_neighbors_beside_both_ends_of_a_can_turn_the_hand():
    can = Boxes(BOWL[None], np.eye(3)[None], np.array([[0.02, 0.02, 0.04]]))
    beside = Boxes(
        BOWL + np.array([[0, 0.06, 0], [0, -0.06, 0]]),
        np.stack([np.eye(3)] * 2),
        np.full((2, 3), [0.02, 0.01, 0.1]),
    )
    assert abs(body_grasp(np.eye(3), can, beside, fingertip=0.012).yaw) > 0.5


def test_distance_to_boxes():
    boxes = _wall([0, 0, 0], [1, 2, 3])
    points = np.array([[0.5, 0, 0], [2, 0, 0], [1, 2, 4], [4, 6, 0]])
    np.testing.assert_allclose(boxes.distance(points), [0, 1, 1, 5])


def test_the_way_over_a_box_rises_towards_it():
    box = _wall([0, 0, 1], [0.1, 0.1, 0.2])
    heights = [box.clear_height(np.array([x, 0]), radius=0.05) for x in (0, 0.15, 0.25, 0.35)]
    np.testing.assert_allclose(heights, [1.225, 1.225, 1.025, 0.825])


def test_tops_of_a_turned_box():
    s = np.sqrt(0.5)
    boxes = Boxes(
        np.array([[0, 0, 1.0]]), np.array([[[s, -s, 0], [s, s, 0], [0, 0, 1]]]), np.array([[1, 1, 0.5]])
    )
    center, half, top = boxes.tops()
    np.testing.assert_allclose(center, [[0, 0]])
    np.testing.assert_allclose(half, [[2 * s, 2 * s]])
    np.testing.assert_allclose(top, [1.5])
