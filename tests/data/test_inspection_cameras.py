"""What an inspection says of several cameras, their calibration and the arm's state."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from cameras import rotation
from moving_arm import FRONT, SIDE, K, path, pictures

from spatialvla.actions.units import UNKNOWN
from spatialvla.data.gripper_track import gripper_positions, position_indices
from spatialvla.data.inspection import inspect
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.mapping_lines import GripperPose
from spatialvla.data.needed_parts import NeededParts
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import pose_matrix, transform
from spatialvla.viz.dataset import contact_sheet
from spatialvla.viz.drawing import png

SIDEWAYS = FRONT @ pose_matrix(np.zeros(3), rotation(np.radians([0, 8.0, 0])))
CAMERA = Camera(K, SIDE, SIDE)
NAMES = ("x", "y", "z", "finger")


@dataclass(frozen=True)
class ArmView:
    """A camera that stands at `where` and is told to stand at `told`."""

    where: np.ndarray = field(default_factory=lambda: FRONT)
    told: np.ndarray | None = field(default_factory=lambda: FRONT)
    camera: Camera | None = CAMERA

    @property
    def extrinsics(self):
        return None if self.told is None else np.broadcast_to(self.told, (len(path()), 4, 4))

    damaged_at: int | None = None

    def images(self, steps):
        if self.damaged_at in steps:
            raise CheckpointError("this image is damaged")
        return pictures(self.where, path()[list(steps)])

    def depth(self, steps):
        return None


@dataclass(frozen=True)
class ArmEpisode(ArmView):
    number: int = 0
    scale: float = 1.0
    shift: float = 0.0
    other_views: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)
    instruction = "go around"

    @property
    def actions(self):
        actions = 0.01 * np.random.default_rng(self.number).normal(size=(len(path()), 7))
        actions[:, 6] = np.arange(len(actions)) < 30
        return actions

    @property
    def starts(self):
        return np.arange(len(path()))

    @property
    def state(self):
        return self.scale * np.hstack([path() + self.shift, np.full((len(path()), 1), 0.02)])

    def instruction_at(self, step):
        return self.instruction


class ArmSource:
    key, control_hz, units, fingerprint, state_names = "arm", 5.0, UNKNOWN, "1", NAMES
    left_out: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def __init__(self, episodes):
        self.episodes = episodes

    def __len__(self):
        return len(self.episodes)

    def episode(self, index):
        return self.episodes[index]


def inspected(*changed, count=3, **options):
    """Episodes like each other, but for those that are `changed`, which come last."""
    alike = [ArmEpisode(number=number, **options) for number in range(count - len(changed))]
    return inspect(ArmSource([*alike, *changed]), strips=count)


@pytest.mark.parametrize(("step", "decode"), [(0, False), (0, True), (7, True)])
def test_damaged_pictures_of_any_camera_are_found(step, decode):
    damaged = ArmEpisode(number=2, other_views={"wrist": ArmView(damaged_at=step)})
    source = ArmSource([ArmEpisode(number=0), ArmEpisode(number=1), damaged])
    found = inspect(source, strips=3, decode=decode)
    assert found.omissions.pictures == ["Episode 2: this image is damaged"]


@dataclass(frozen=True)
class SparseArm(ArmEpisode):
    """Each fourth step has a picture of its own; the others have one of another place."""

    @property
    def starts(self):
        return np.arange(0, len(path()), 4)

    def images(self, steps):
        return pictures(self.where, path()[[step if step % 4 == 0 else -step for step in steps]])


def test_only_pictures_of_their_own_step_are_looked_at():
    found = inspect(ArmSource([SparseArm(number=number) for number in range(3)]), strips=3, frames=4)
    assert found.warnings == ()
    for strip in found.strips:
        assert strip.steps.tolist() == [0, 20, 36, 56]
        assert strip.cameras["image"].sighting.clear


def test_cameras_and_state_are_summed_up_and_drawn():
    views = {"wrist": ArmView(told=None, camera=None), "side": ArmView(SIDEWAYS, SIDEWAYS)}
    found = inspected(other_views=views)
    assert [camera.name for camera in found.cameras] == ["image", "wrist", "side"]
    first, wrist, side = found.cameras
    np.testing.assert_allclose(first.place, FRONT)
    assert (first.moves, first.places, wrist.place, wrist.intrinsics) == (False, 1, None, None)
    np.testing.assert_allclose(side.intrinsics, K)
    assert found.state.names == NAMES
    np.testing.assert_allclose(found.state.max, [*path().max(axis=0), 0.02])
    assert found.warnings == ("the intrinsics of the camera 'wrist' are unknown in 3 of 3 episodes",)
    seen = found.strips[0].cameras
    assert seen["wrist"].path is None
    assert seen["side"].path.shape == (60, 2)
    assert not seen["image"].sighting.drifted
    figure = contact_sheet(found)
    assert png(figure)
    words = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert sum("ring: where it is now" in one for one in words) == 3  # once an episode


def test_a_pushed_camera_is_noticed_by_its_background_and_by_the_gripper():
    found = inspected(ArmEpisode(SIDEWAYS, number=2))
    assert any("the background is shifted by -4" in warning for warning in found.warnings)
    assert any("sees the gripper elsewhere than its calibration says in 1 of 3" in w for w in found.warnings)
    without_calibration = inspected(ArmEpisode(SIDEWAYS, None, number=2), told=None)
    (warning,) = without_calibration.warnings
    assert "in episode 2 against 0; the camera seems to have been moved in between" in warning


def test_a_wrong_calibration_is_noticed_by_the_gripper_alone():
    (warning,) = inspected(told=SIDEWAYS).warnings
    assert (
        "the camera sees the gripper elsewhere than its calibration says in 3 of 3 episodes looked at"
        in warning
    )
    assert "to the right" in warning


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"where": SIDEWAYS, "told": SIDEWAYS}, "the camera stands elsewhere in episode 5 than in the others"),
        ({"camera": Camera(np.diag([1.2, 1.2, 1]) @ K, SIDE, SIDE)}, "has other intrinsics in episode 5 than in the"),
    ],
)  # fmt: skip
def test_a_camera_that_is_told_to_be_another_in_a_few_episodes_is_named(change, warning):
    assert any(warning in found for found in inspected(ArmEpisode(number=5, **change), count=6).warnings)


def test_cameras_that_stand_elsewhere_in_every_episode_are_meant_so():
    turned = [FRONT @ pose_matrix(np.zeros(3), rotation(np.radians([0, 2.0 * n, 0]))) for n in range(4)]
    found = inspected(*(ArmEpisode(pose, pose, number=n) for n, pose in enumerate(turned)), count=4)
    assert (found.cameras[0].places, found.warnings) == (4, ())


def test_positions_in_millimeters_are_noticed():
    assert any("x, y, z reach 55" in w and "millimeters" in w for w in inspected(scale=1000.0).warnings)


def test_positions_in_another_frame_are_noticed():
    assert any("should hardly see the gripper in 3 of the 3" in w for w in inspected(shift=1.5).warnings)


@pytest.mark.parametrize(
    ("names", "indices"),
    [
        (NAMES, (0, 1, 2)),
        (("joint_1", "eef_X", "eef_Y", "eef_Z"), (1, 2, 3)),
        (("gripper", "tcp.x", "tcp.y", "tcp.z"), (1, 2, 3)),
        (("left_x", "right_y", "left_z"), None),
        (("joint_1", "joint_2", "joint_3"), None),
        ((), None),
    ],
)
def test_the_gripper_is_found_by_the_names_of_the_state(names, indices):
    assert position_indices(names) == indices


def test_a_state_in_the_world_is_brought_to_the_robots_base():
    """As LIBERO's recordings have it, whose camera's pose is known in both."""
    world = pose_matrix(np.array([0.6, 0.0, -0.9]), rotation([0, 0, 0.3]))  # base -> world
    columns = {"observation.camera_pose": np.broadcast_to(world @ FRONT, (60, 4, 4))}

    class InWorld(ArmEpisode):
        @property
        def state(self):
            return np.hstack([transform(world, path()), np.zeros((60, 1))])

    found = gripper_positions(ArmSource([]), InWorld(columns=columns))
    np.testing.assert_allclose(found, path(), atol=1e-3)
    assert gripper_positions(ArmSource([]), InWorld(told=None, columns=columns)) is None
    elsewhere = FRONT @ pose_matrix(np.array([0.3, 0.1, 0.0]), rotation([0, 0.5, 0]))
    of_the_scene = columns | {"observation.extrinsics": np.broadcast_to(FRONT, (60, 4, 4))}
    through_another = InWorld(told=elsewhere, columns=of_the_scene)
    np.testing.assert_allclose(gripper_positions(ArmSource([]), through_another), path(), atol=1e-3)


def test_a_mappings_gripper_pose_tells_unit_and_frame(tmp_path):
    features = [
        Feature("observation.images.front", "video", (16, 16, 3)),
        Feature("pose", "float32", (6,)),
        Feature("action", "float32", (7,)),
    ]
    writer = LeRobotWriter(tmp_path / "d", 10, features)
    poses = np.hstack([1000 * (path() + np.array([0.1, 0, 0.9])), np.zeros((60, 3))]).astype(np.float32)
    images, actions = np.zeros((60, 16, 16, 3), np.uint8), np.zeros((60, 7), np.float32)
    writer.add_episode({"observation.images.front": images, "pose": poses, "action": actions}, "go")
    writer.finalize()
    base = pose_matrix(np.array([0.1, 0, 0.9]), np.eye(3)).tolist()
    told = GripperPose(("pose",), meters=0.001, base=tuple(map(tuple, base)))
    source = LeRobotSource(tmp_path / "d", FeatureMapping(gripper_pose=told))
    for opened in (source, NeededParts(source, None, state=False)):
        np.testing.assert_allclose(gripper_positions(opened, opened.episode(0)), path(), atol=1e-6)
