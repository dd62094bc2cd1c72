"""Pictures of what the model sees: its depth in meters, and the points that depth puts in space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spatialvla.common.terminal import shown as shown_text
from spatialvla.errors import InputError
from spatialvla.viz.drawing import INK, new_figure
from spatialvla.viz.point_cloud import PointCloud
from spatialvla.viz.scenes import SeenScene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ANGLES = ((-0.6, 0.35, "from the left"), (0.6, 0.35, "from the right"))
_CLOUD_SIZE = (340, 390)
_CAMERAS = ((255, 196, 61), (64, 224, 208), (255, 105, 150), (170, 255, 100), (255, 255, 255))
"""Colors of points by the camera that saw them, RGB."""
_BACKDROP = (126, 144, 170)
"""Behind points, RGB: a slate blue that black, white and wooden points stand out from, on any page."""


def depth_figure(depth: np.ndarray, image: np.ndarray | None = None, name: str = "image") -> Figure:
    """The depth map (H, W) in meters in colors with a scale, beside the RGB image (H, W, 3) if given.

    name: of the camera, above its image.
    """
    with new_figure(5.8 if image is not None else 3.3, 2.6) as figure:
        axes = figure.subplots(1, 1 if image is None else 2, squeeze=False)[0]
        if image is not None:
            axes[0].imshow(image)
            axes[0].set_title(shown_text(name))
        shown = axes[-1].imshow(depth, cmap="viridis_r")
        axes[-1].set_title("depth")
        bar = figure.colorbar(shown, ax=axes[-1], fraction=0.046, pad=0.03)
        bar.set_label("meters")
        bar.outline.set_visible(False)
        for axis in axes:
            axis.set_axis_off()
    return figure


def point_cloud_figure(image: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> Figure:
    """The image's pixels back-projected into space, seen from the left and from the right, on a backdrop.

    image: (H, W, 3) uint8 RGB. depth: (h, w) meters. intrinsics: K (3, 3) in pixels of `image`.
    """
    cloud = PointCloud.from_depth(image, depth, intrinsics)
    with new_figure(5.8, 2.75) as figure:
        _draw_cloud(figure.subplots(1, 2), cloud)
    return figure


def joint_cloud_figure(scenes: Sequence[SeenScene], by_camera: bool = False) -> Figure:
    """The pixels of several cameras as points in one space, from the left and from the right of the first one.

    by_camera: in one color for each camera instead of their own, with a legend.
    Raises InputError where it is not known where one of them stands.
    """
    clouds, poses = [], []
    for scene in scenes:
        if scene.pose is None:
            raise InputError(f"It is not known where the camera {scene.name!r} stands; give its extrinsics.")
        clouds.append(PointCloud.from_depth(scene.image, scene.depth, scene.intrinsics))
        poses.append(scene.pose)
    colors = [_CAMERAS[number % len(_CAMERAS)] for number in range(len(scenes))]
    if by_camera:
        clouds = [cloud.painted(color) for cloud, color in zip(clouds, colors, strict=True)]
    with new_figure(5.8, 3.05) as figure:
        _draw_cloud(figure.subplots(1, 2), PointCloud.joined(clouds, poses))
        if by_camera:
            dots = [figure.axes[0].plot([], [], "o", color=np.divide(color, 255))[0] for color in colors]
            names = [shown_text(scene.name) for scene in scenes]
            figure.legend(
                dots, names, loc="outside lower center", ncols=len(names), frameon=False, labelcolor=INK
            )
    return figure


def _draw_cloud(axes: Sequence[Axes], cloud: PointCloud) -> None:
    for axis, (yaw, pitch, name) in zip(axes, _ANGLES, strict=True):
        picture, meters_per_pixel = cloud.render(yaw, pitch, _CLOUD_SIZE)
        axis.imshow(np.where(picture[..., 3:] > 0, picture[..., :3], np.asarray(_BACKDROP, np.uint8)))
        axis.set_title(name)
        axis.set_axis_off()
        _scale_bar(axis, meters_per_pixel)


def _scale_bar(axis: Axes, meters_per_pixel: float) -> None:
    """A line of a round length below the picture, at most a third of its width."""
    height, width = _CLOUD_SIZE
    longest = width / 3 * meters_per_pixel
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    label = f"{length:g} m" if length >= 1 else f"{100 * length:g} cm"
    axis.plot([0, length / meters_per_pixel], [height + 12] * 2, color=INK, lw=2, clip_on=False)
    axis.text(length / meters_per_pixel + 10, height + 12, label, va="center")
    axis.set_ylim(height + 24, 0)
