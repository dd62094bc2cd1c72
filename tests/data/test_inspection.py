"""What an inspection counts, and what it warns of."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from spatialvla.actions.units import LIBERO, UNKNOWN
from spatialvla.data.inspection import inspect
from spatialvla.data.omissions import Omissions
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera, check_readings
from spatialvla.viz.dataset import action_figure, contact_sheet
from spatialvla.viz.drawing import png

CAMERA = Camera(np.array([[60.0, 0, 16], [0, 60, 12], [0, 0, 1]]), height=24, width=32)


@dataclass(frozen=True)
class MadeEpisode:
    actions: np.ndarray
    instruction: str = "push"
    camera: Camera | None = CAMERA
    broken: bool = False
    timestamps: np.ndarray | None = None
    frozen: bool = False
    meters: float | None = None
    flat: bool = False

    @property
    def columns(self):
        return {} if self.timestamps is None else {"timestamp": self.timestamps}

    extrinsics = None
    other_views: ClassVar = {}
    state = None

    @property
    def starts(self):
        return np.arange(len(self.actions))

    def instruction_at(self, step):
        return self.instruction

    def images(self, steps):
        if self.broken:
            raise CheckpointError("this image is damaged")
        pictures = np.zeros((len(steps), 12, 16, 3), np.uint8)
        if not self.frozen:
            pictures[:, 0, 0, 0] = np.array(steps) % 251
        return pictures

    def depth(self, steps):
        if self.meters is None:
            return None
        slope = np.full(16, 1.0) if self.flat else np.linspace(1, 1.25, 16)
        return check_episode_depth(np.tile(self.meters * slope.reshape(4, 4), (len(steps), 1, 1)))


def check_episode_depth(readings):
    try:
        return check_readings(readings)
    except InputError as error:
        raise CheckpointError(str(error)) from None


class MadeSource:
    key, control_hz, units, fingerprint = "made", 5.0, UNKNOWN, "1"
    state_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def __init__(self, episodes):
        self.episodes = episodes

    def __len__(self):
        return len(self.episodes)

    def episode(self, index):
        found = self.episodes[index]
        if isinstance(found, str):
            raise CheckpointError(found)
        return found


def good(number, length=12):
    """Motions in every dimension, and a gripper that closes half way."""
    actions = 0.01 * np.random.default_rng(number).normal(size=(length, 7))
    actions[:, 6] = np.arange(length) < length // 2
    return actions


def changed(dimension, values):
    def actions(number):
        made = good(number)
        made[:, dimension] = values(made[:, dimension])
        return made

    return actions


def inspected(make=good, count=4, **options):
    return inspect(MadeSource([MadeEpisode(make(number), **options) for number in range(count)]))


def test_numbers_are_those_of_all_actions():
    episodes = [MadeEpisode(good(0), "push"), MadeEpisode(good(1, 8), "pull"), MadeEpisode(good(2), "push")]
    found = inspect(MadeSource(episodes), strips=2, frames=3)
    everything = np.concatenate([episode.actions for episode in episodes])
    assert found.warnings == ()
    assert found.lengths.tolist() == [12, 8, 12]
    assert found.instructions == (("push", 2), ("pull", 1))
    (camera,) = found.cameras
    assert (camera.size, camera.has_depth, found.key) == ((12, 16), False, "made")
    np.testing.assert_allclose(camera.intrinsics, [[30, 0, 8], [0, 30, 6], [0, 0, 1]])
    np.testing.assert_allclose(found.statistics.mean, everything.mean(axis=0))
    np.testing.assert_allclose(found.statistics.q99, np.quantile(everything, 0.99, axis=0))
    assert sorted(map(tuple, found.sample)) == sorted(map(tuple, everything))
    assert [(strip.episode, strip.steps.tolist()) for strip in found.strips] == [
        (0, [0, 6, 11]),
        (2, [0, 6, 11]),
    ]


@pytest.mark.parametrize(
    ("make", "options", "warning"),
    [
        (changed(2, np.zeros_like), {}, "z never changes"),
        (changed([3, 5], np.ones_like), {}, "roll, yaw never change"),
        (changed(6, lambda g: 2 * g - 1), {}, "the gripper lies outside of [0, 1] in 24 of 48 steps (from -1 to 1)"),
        (changed(6, np.ones_like), {}, "the gripper never changes; it is 1 all the time"),
        (changed(6, lambda g: 0.08 * g), {}, "the gripper goes from 0 to 0.08, which is always closed (0 is closed, 1"),
        (changed(6, lambda g: 0.9 + 0.1 * g), {}, "the gripper goes from 0.9 to 1, which is always open (0 is"),
        (changed(6, lambda g: 1 - g), {}, "closed at the start of 4 of 4 episodes; it may be inverted"),
        (changed(6, lambda g: (1 - g) / 2), {}, "closed at the start of 4 of 4 episodes; it may be inverted"),
        (lambda n: np.where(np.arange(7) == 6, n % 2, good(n)), {}, "the gripper does not change in 4 of 4"),
        (changed(slice(6), np.zeros_like), {}, "nothing moves in 100% of the steps"),
        (lambda n: good(n, 4 if n else 9), {}, "3 of 4 episodes have fewer than 5 steps"),
        (good, {"camera": None}, "the intrinsics are unknown in 4 of 4 episodes"),
    ],
)  # fmt: skip
def test_each_fault_has_its_warning(make, options, warning):
    assert any(warning in found for found in inspected(make, **options).warnings)


def test_a_gripper_in_meters_is_not_said_to_be_inverted():
    """Of 8 cm at most: it starts wide open, which is less than a half."""
    (warning,) = inspected(changed(6, lambda g: 0.08 * g)).warnings
    assert "scale it with a mapping's 'gripper: {min, max}'" in warning


def test_damaged_episodes_are_counted_and_the_rest_is_read():
    source = MadeSource(
        ["shard 0, offset 5 is damaged", MadeEpisode(good(0)), "shard 1 too", MadeEpisode(good(1))]
    )
    source.left_out = ("shard 2 breaks off",)
    found = inspect(source)
    assert len(found.lengths) == 2
    damaged = ["shard 0, offset 5 is damaged", "shard 1 too"]
    assert found.omissions == Omissions(("shard 2 breaks off",), damaged)
    with pytest.raises(InputError, match=r"No episode of the dataset can be read\. it is damaged$"):
        inspect(MadeSource(["it is damaged"]))


def test_actions_that_are_no_numbers_are_damage():
    broken = good(1)
    broken[3, 2] = np.nan
    found = inspect(MadeSource([MadeEpisode(good(0)), MadeEpisode(broken)]))
    assert len(found.lengths) == 1
    (damaged,) = found.omissions.damaged
    assert "made episode 1" in damaged


def test_what_a_run_would_leave_out_is_found_episode_by_episode():
    def check(text):
        if text == "<image>":
            raise InputError("The instruction holds a reserved word.")

    episodes = [
        MadeEpisode(good(0)),
        MadeEpisode(good(1), ""),
        MadeEpisode(good(2), "<image>"),
        MadeEpisode(good(3)[:0]),
        *(MadeEpisode(good(4), broken=True) for _ in range(8)),
    ]
    omissions = inspect(MadeSource(episodes), strips=0, check=check, decode=True).omissions
    assert omissions.instructions == ["Episode 2: The instruction holds a reserved word."]
    assert omissions.pictures == [f"Episode {number}: this image is damaged" for number in range(4, 12)]
    assert (omissions.damaged, omissions.steps, omissions.words) == ([], 1, 1)
    # Without a policy no instruction is checked, and of the pictures those that are shown are looked at.
    some = inspect(MadeSource(episodes), strips=2).omissions
    assert (some.instructions, some.pictures) == ([], ["Episode 11: this image is damaged"])


def timed(*seconds):
    return MadeEpisode(good(0), timestamps=np.array(seconds, np.float32))


@pytest.mark.parametrize(
    ("episodes", "warnings"),
    [
        ([timed(*np.arange(12) / 5), MadeEpisode(good(1))], []),  # 5 Hz, as the source says
        ([timed(*np.arange(12) / 5.05)], []),
        (
            [timed(*np.arange(12) / 10), timed(*np.arange(12) / 10), timed(*np.arange(12) / 5)],
            ["the timestamps tell 10 steps a second in 2 of 3 episodes, and the dataset says 5 (fps)"],
        ),
        ([timed(*[0.0] * 12)], ["the timestamps tell 0 steps a second in 1 of 1 episodes"]),
        (
            [timed(*[*np.arange(6) / 5, *(np.arange(6) / 5 + 3)])],
            ["1 of 11 steps come more than half a step late, by their timestamps (up to 2 s after"],
        ),
    ],
)
def test_timestamps_are_held_against_the_rate(episodes, warnings):
    found = [text for text in inspect(MadeSource(episodes)).warnings if "timestamps" in text]
    assert len(found) == len(warnings)
    assert all(expected in text for text, expected in zip(found, warnings, strict=True))


def test_doubts_about_the_files_are_warnings():
    source = MadeSource([MadeEpisode(good(0))])
    source.doubts = ("The files are odd.",)
    assert inspect(source).warnings == ("The files are odd.",)


def test_some_episodes_stand_for_all():
    calls = []
    source = MadeSource([MadeEpisode(good(number)) for number in range(50)])
    found = inspect(source, episodes=5, progress=lambda done, total: calls.append((done, total)))
    assert len(found.lengths) == 5
    assert {strip.episode for strip in found.strips} == {0, 12, 24, 37, 49}
    assert calls[-1] == (5, 5)


@pytest.mark.parametrize("make", [good, changed(6, np.ones_like), lambda n: good(n, 2)])
def test_pictures_can_be_drawn_of_anything(make):
    for options in ({}, {"broken": True}, {"instruction": "word " * 60}):
        found = inspected(make, **options)
        for figure in (action_figure(found), contact_sheet(found)):
            assert png(figure).startswith(b"\x89PNG")
        # Whatever the counts are, their axes begin below one step, so no bar is cut off.
        assert all(axis.get_ylim()[0] == 0.5 for axis in action_figure(found).axes[:7])


def test_rare_motions_and_noise_are_told_with_their_numbers():
    rng = np.random.default_rng(0)
    actions = rng.normal(0, 0.01, (400, 7))
    actions[:, 6] = np.arange(400) % 2
    actions[:, 5] = 0
    actions[100:102, 5] = 0.2
    actions[:, 3] = rng.normal(0, 3e-8, 400)
    warnings = inspect(MadeSource([MadeEpisode(actions)] * 3)).warnings
    (yaw,) = [warning for warning in warnings if warning.startswith("yaw")]
    assert "fewer than 1 % of the steps, from 0 to 0.2, but q01 is 0 and q99 0" in yaw
    (roll,) = [warning for warning in warnings if warning.startswith("roll")]
    assert "hardly moves" in roll
    assert not [warning for warning in warnings if warning.startswith(("x", "y ", "z", "pitch", "Δ"))]


@pytest.mark.parametrize(
    ("units", "dimension", "reach", "doubts"),
    [
        (
            UNKNOWN,
            1,
            2.6,
            ["the translation reaches 2.6 in a step (q01 to q99), and no arm moves 2.6 meters"],
        ),
        (UNKNOWN, 4, 3.1, ["the rotation reaches 3.1 in a step (q01 to q99), and no arm moves 3.1 radians"]),
        (UNKNOWN, 1, 0.1, []),
        (LIBERO, 1, 0.94, []),  # 4.7 cm
        (
            LIBERO,
            1,
            9.0,
            ["the translation reaches 9 in a step (q01 to q99), and no arm moves 0.45"],
        ),
    ],
)
def test_steps_that_no_arm_takes_are_doubted(units, dimension, reach, doubts):
    make = changed(dimension, lambda values: np.where(np.arange(len(values)) % 2, reach, -reach))
    source = MadeSource([MadeEpisode(make(number)) for number in range(4)])
    source.units = units
    warnings = inspect(source).warnings
    assert len(warnings) == len(doubts)
    assert all(warning.startswith(doubt) for warning, doubt in zip(warnings, doubts, strict=True))


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({}, None),
        ({"frozen": True}, "stays the same, bit for bit, while the arm moves, in 4 of the 4 episodes"),
        ({"meters": 1.5}, None),
        ({"meters": 0.0}, "cannot be used in 4 of the 4 episodes looked at, as in 0: it is 0 everywhere"),
        ({"meters": 900.0}, "as in 0: Depth reaches 1125 meters"),
        ({"meters": 10.0, "flat": True}, "it is 10 m almost everywhere, as where millimeters were taken for"),
        ({"meters": 0.0015}, "its median is 0.0017 m, nearer than cameras see"),
    ],
)
def test_cameras_and_sensors_that_have_stopped_are_doubted(options, warning):
    warnings = inspected(**options).warnings
    assert len(warnings) == (warning is not None)
    assert warning is None or warning in warnings[0]


def test_depth_is_summed_up_and_drawn():
    found = inspected(meters=2.0)
    assert found.cameras[0].depth.size == (4, 4)
    assert (found.cameras[0].depth.nearest, found.cameras[0].depth.farthest) == pytest.approx(
        (2.0, 2.5), abs=0.01
    )
    assert found.cameras[0].depth.holes == 0
    assert len(contact_sheet(found).axes) > len(contact_sheet(inspected()).axes)
    assert inspected().cameras[0].depth is None
    blind = inspected(meters=0.0).cameras[0].depth
    assert (blind.nearest, blind.farthest, blind.holes) == (0, 0, 1)


def test_a_picture_may_stay_while_nothing_moves():
    still = changed(slice(0, 6), lambda values: 0 * values)
    assert not [warning for warning in inspected(still, frozen=True).warnings if "bit for bit" in warning]
