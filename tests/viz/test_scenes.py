"""Pictures of what several cameras saw: each one's depth, and the points of all in one space."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cameras import looking_at

from spatialvla import CameraImage, Observation, Policy, Processor, SpatialVLA
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.cli.main import main
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.model.growth import grow
from spatialvla.viz.drawing import png
from spatialvla.viz.figures import joint_cloud_figure
from spatialvla.viz.point_cloud import PointCloud
from spatialvla.viz.scenes import SeenScene, seen_scenes

GOLDENS = Path(__file__).parents[1] / "goldens" / "reference"
PICTURE = GOLDENS / "images" / "img4_100x140.png"
DATASET = "tiny_robot/0.1.0"
K = np.array([[80.0, 0, 48], [0, 80, 36], [0, 0, 1]])
IMAGE = np.random.default_rng(0).integers(0, 255, (72, 96, 3), np.uint8)
PLACES = [looking_at([1.2, 0.0, 0.8], [0.5, 0, 0]), looking_at([0.5, 1.0, 0.6], [0.5, 0, 0])]


def table(name: str, place: np.ndarray, mirrored: bool = False) -> SeenScene:
    """A camera that sees nothing but the table, z = 0."""
    pose = mirror_extrinsics(place) if mirrored else place
    v, u = np.mgrid[:72, :96] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(K).T @ pose[:3, :3].T
    return SeenScene(name, IMAGE, -pose[2, 3] / rays[..., 2], K, pose)


@pytest.fixture(scope="module")
def grown(tmp_path_factory) -> Path:
    """The reference checkpoint with a wrist camera and a state of three numbers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("grown")
    model, processor = (kind.from_pretrained(GOLDENS / "checkpoint") for kind in (SpatialVLA, Processor))
    grow(model, ("wrist",), 3)
    states = {DATASET: StateStatistics(np.full(3, -1.0), np.full(3, 1.0))}
    processor = replace(
        processor, camera_names=("image", "wrist"), state_names=("x", "y", "z"), state_statistics=states
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_table_is_one_plane_for_all_cameras(mirrored):
    scenes = [table("front", PLACES[0], mirrored), table("side", PLACES[1], mirrored)]
    clouds = [PointCloud.from_depth(scene.image, scene.depth, scene.intrinsics) for scene in scenes]
    joined = PointCloud.joined(clouds, [scene.pose for scene in scenes])
    assert len(joined.points) == sum(len(cloud.points) for cloud in clouds)
    first = scenes[0].pose  # the cloud is in the first camera's frame
    heights = joined.points @ first[2, :3] + first[2, 3]
    np.testing.assert_allclose(heights, 0, atol=1e-5)


def test_cameras_are_told_apart_by_color():
    scenes = [table("front", PLACES[0]), table("side", PLACES[1])]
    own, painted = joint_cloud_figure(scenes), joint_cloud_figure(scenes, by_camera=True)
    assert not own.legends
    assert [text.get_text() for text in painted.legends[0].get_texts()] == ["front", "side"]
    assert png(own) != png(painted)
    with pytest.raises(InputError, match="where the camera 'side' stands"):
        joint_cloud_figure([scenes[0], replace(scenes[1], pose=None)])


def test_scenes_are_those_of_the_cameras_that_are_there(grown):
    policy = Policy.from_pretrained(grown, dataset=DATASET)
    wrist = CameraImage(IMAGE[::2], K, np.full((36, 96), 0.5, np.float32), PLACES[1], mirrored=True)
    seen = Observation(IMAGE, "go", K, images={"wrist": wrist})
    ((first, second), _) = seen_scenes(policy, [seen, seen])
    assert (first.name, first.pose, second.name) == ("image", None, "wrist")
    np.testing.assert_array_equal(second.image, IMAGE[::2])
    np.testing.assert_allclose(second.depth, 0.5)
    np.testing.assert_array_equal(second.pose, mirror_extrinsics(PLACES[1]))
    ((alone,),) = seen_scenes(policy, [replace(seen, images={})])
    np.testing.assert_allclose(alone.depth, first.depth, atol=1e-4)


def test_predict_takes_every_camera_and_the_state_and_draws_them(grown, tmp_path, capsys):
    camera = Camera(np.array([[110.0, 0, 50], [0, 110, 70], [0, 0, 1]]), 140, 100)
    robot = tmp_path / "robot.yaml"
    cameras = dict(zip(("image", "wrist"), PLACES, strict=True))
    RobotCalibration({name: CalibratedCamera(camera, place) for name, place in cameras.items()}).save(robot)
    words = ["predict", str(PICTURE), "stop", "--policy", str(grown), "--dataset", DATASET]
    more = ["--views", f"wrist={PICTURE}", "--state", "0.1", "-0.3", "0.5", "--calibration", str(robot)]
    main([*words, *more, "--json", "--figures", str(tmp_path / "all")])
    names = ["depth", "depth_wrist", "grid", "points", "points_by_camera"]
    assert sorted(file.stem for file in (tmp_path / "all").iterdir()) == names
    with_all = capsys.readouterr().out
    main([*words, "--intrinsics", "90", "90", "70", "50", "--json", "--figures", str(tmp_path / "one")])
    assert sorted(file.stem for file in (tmp_path / "one").iterdir()) == ["depth", "grid", "points"]
    assert with_all
    for wrong, sentence in (
        (["--views", "wrist.png"], "--views takes NAME=PICTURE"),
        (["--views", f"front={PICTURE}"], "The policy has no camera 'front'"),
        (["--state", "1"], "state"),
        (more[:-2], "does not know the intrinsics of the camera wrist"),
    ):
        with pytest.raises(SystemExit):
            main([*words, *wrong])
        assert sentence in capsys.readouterr().err
