import io

import numpy as np
import pytest
from PIL import Image

from spatialvla.errors import InputError
from spatialvla.viz.drawing import png
from spatialvla.viz.figures import depth_figure, point_cloud_figure
from spatialvla.viz.point_cloud import PointCloud

K = np.array([[64.0, 0, 32], [0, 64, 32], [0, 0, 1]])
IMAGE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def test_points_lie_where_their_pixels_look():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, 32:] = 255, 0, 0  # the upper right quarter is red
    cloud = PointCloud.from_depth(image, np.full((64, 64), 2.0), K)
    red = cloud.points[cloud.colors[:, 0] == 255]
    assert len(red) == 32 * 32
    assert (red[:, 0] > 0).all()  # x right
    assert (red[:, 1] < 0).all()  # y down
    np.testing.assert_allclose(cloud.points[:, 2], 2.0)
    # Half a pixel inside the left border: (0.5 - 32) / 64 · 2 m.
    assert cloud.points[:, 0].min() == pytest.approx(-0.984375)


def test_depth_of_another_resolution_shows_the_same_scene():
    fine = PointCloud.from_depth(IMAGE, np.full((64, 64), 2.0), K)
    coarse = PointCloud.from_depth(IMAGE, np.full((16, 16), 2.0), K)
    assert len(coarse.points) == 256
    np.testing.assert_allclose(coarse.points.mean(0), fine.points.mean(0), atol=1e-6)


def test_walls_far_behind_are_left_out():
    depth = np.full((64, 64), 1.0)
    depth[:10] = 5.0
    cloud = PointCloud.from_depth(IMAGE, depth, K)
    assert len(cloud.points) == 54 * 64


def test_the_view_from_the_right_and_above_moves_near_points_as_it_should():
    # A red point a meter in front of a wall, at its center.
    wall = np.stack(np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40)), -1).reshape(-1, 2)
    points = np.vstack([np.c_[wall, np.full(len(wall), 3.0)], [[0.0, 0.0, 2.0]]])
    colors = np.full((len(points), 3), 128, np.uint8)
    colors[-1] = 255, 0, 0

    def place(yaw: float, pitch: float) -> np.ndarray:
        picture, meters = PointCloud(points, colors).render(yaw, pitch, (200, 200))
        assert meters == pytest.approx(2.2 / 200, rel=0.15)
        return np.argwhere(picture[..., 0] == 255).mean(0) - 100

    def wall_center(yaw: float, pitch: float) -> np.ndarray:
        picture, _ = PointCloud(points[:-1], colors[:-1]).render(yaw, pitch, (200, 200))
        return np.argwhere(picture[..., 3] == 255).mean(0) - 100

    assert np.abs(place(0, 0)).max() < 6
    # Seen from the right, what is nearer moves left of the wall's center; seen from above, it moves down.
    assert place(0.5, 0)[1] < wall_center(0.5, 0)[1] - 20
    assert place(0, 0.5)[0] > wall_center(0, 0.5)[0] + 20


def test_near_points_hide_far_ones():
    points = np.array([[0.0, 0, 3], [0, 0, 1], [0, 0, 2], [1, 1, 1], [-1, -1, 1]])
    colors = np.array([[1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0], [4, 0, 0]], np.uint8)
    picture, _ = PointCloud(points, colors).render(0.0, 0.0, (101, 101))
    assert picture[50, 50].tolist() == [2, 0, 0, 255]


def test_figures_are_pictures_with_their_scale():
    depth = np.linspace(0.5, 2.5, 64 * 64).reshape(64, 64)
    figure = depth_figure(depth, IMAGE)
    labels = [axis.get_ylabel() for axis in figure.axes] + [axis.get_title() for axis in figure.axes]
    assert "meters" in labels
    with Image.open(io.BytesIO(png(figure))) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height
    cloud = point_cloud_figure(IMAGE, depth, K)
    assert len(cloud.axes) == 2
    assert all(axis.texts[0].get_text().endswith("m") for axis in cloud.axes)


def test_a_singular_camera_is_refused():
    with pytest.raises(InputError, match="singular"):
        point_cloud_figure(IMAGE, np.ones((64, 64)), np.diag([0.0, 64, 1]))


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"spatialvla\[viz\]"):
        depth_figure(np.ones((4, 4)))


@pytest.mark.parametrize("value", [0, 255])
def test_points_of_any_color_stand_out_from_their_backdrop(value):
    figure = point_cloud_figure(np.full((64, 64, 3), value, np.uint8), np.ones((64, 64)), K)
    for axis in figure.axes:
        shown = np.asarray(axis.images[0].get_array())
        colors = {tuple(color) for color in shown.reshape(-1, 3).tolist()}
        assert len(colors) == 2  # nothing is clear, so the page's own color does not matter
        (backdrop,) = colors - {(value,) * 3}
        assert min(abs(channel - value) for channel in backdrop) > 80
