import numpy as np
import pytest

from spatialvla.simulation.libero.grasping import RADIUS, Boxes, rim_grasp

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


def test_distance_to_boxes():
    boxes = _wall([0, 0, 0], [1, 2, 3])
    points = np.array([[0.5, 0, 0], [2, 0, 0], [1, 2, 4], [4, 6, 0]])
    np.testing.assert_allclose(boxes.distance(points), [0, 1, 1, 5])


def test_tops_of_a_turned_box():
    s = np.sqrt(0.5)
    boxes = Boxes(
        np.array([[0, 0, 1.0]]), np.array([[[s, -s, 0], [s, s, 0], [0, 0, 1]]]), np.array([[1, 1, 0.5]])
    )
    center, half, top = boxes.tops()
    np.testing.assert_allclose(center, [[0, 0]])
    np.testing.assert_allclose(half, [[2 * s, 2 * s]])
    np.testing.assert_allclose(top, [1.5])
