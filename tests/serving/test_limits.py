"""Robot limits: nothing longer, wider or stranger than the robot may be told comes out, whatever goes in."""

from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spatialvla.actions.units import LIBERO, UNKNOWN, ActionUnits
from spatialvla.errors import InputError
from spatialvla.serving.failures import UnsafeAction
from spatialvla.serving.guard.limits import Limits, Workspace
from spatialvla_client import AsynchronousLoop

NUMBERS = st.floats(-1e6, 1e6)
ACTIONS = st.integers(1, 6).flatmap(lambda steps: arrays(np.float64, (steps, 7), elements=NUMBERS))
ROBOT = Limits(
    translation=0.05,
    rotation=0.3,
    workspace=Workspace(np.array([-0.2, -0.2, 0.0]), np.array([0.2, 0.2, 0.3])),
    meters_per_unit=0.1,
    radians_per_unit=0.5,
    frame="base",
)
NO_WORKSPACE = replace(ROBOT, workspace=None)


@given(ACTIONS, arrays(np.float64, 3, elements=st.floats(-1, 1)))
def test_every_limit_holds(actions, position):
    limited, _ = ROBOT.apply(actions, position)
    assert (np.linalg.norm(limited[:, :3], axis=1) * 0.1 <= 0.05 + 1e-9).all()
    assert (np.linalg.norm(limited[:, 3:6], axis=1) * 0.5 <= 0.3 + 1e-9).all()
    assert ((limited[:, 6] >= 0) & (limited[:, 6] <= 1)).all()
    # Inside the box once it has been there, and never further from it than at the start.
    path = position + np.cumsum(limited[:, :3] * 0.1, axis=0)
    box = ROBOT.workspace
    outside = np.maximum(box.low - path, 0) + np.maximum(path - box.high, 0)
    at_first = np.maximum(box.low - position, 0) + np.maximum(position - box.high, 0)
    assert (outside <= at_first + 1e-9).all()
    assert (np.diff(np.vstack([at_first, outside]), axis=0) <= 1e-9).all()


@given(ACTIONS, ACTIONS, arrays(np.float64, 3, elements=st.floats(-0.3, 0.3)))
def test_the_workspace_holds_however_many_steps_under_way_come_first(before, actions, position):
    under_way, _ = ROBOT.apply(before, position)
    limited, _ = ROBOT.apply(actions, position, under_way)
    box = ROBOT.workspace
    for first in range(len(under_way) + 1):
        moves = np.vstack([under_way[:first], limited[first:]])[:, :3] * 0.1
        path = position + np.cumsum(np.vstack([np.zeros(3), moves]), axis=0)
        outside = np.maximum(box.low - path, 0) + np.maximum(path - box.high, 0)
        assert (np.diff(outside, axis=0) <= 1e-9).all(), "and a gripper outside only comes back"


@given(ACTIONS, arrays(np.float64, 3, elements=st.floats(-0.3, 0.3)))
def test_no_steps_under_way_change_nothing(actions, position):
    with_none, _ = ROBOT.apply(actions, position, np.zeros((0, 7)))
    assert np.array_equal(with_none, ROBOT.apply(actions, position)[0])


def test_steps_under_way_that_were_never_sent_are_refused():
    far = np.full((2, 7), 1e30)
    with pytest.raises(InputError, match=r"actions under way lead .* outside the workspace"):
        ROBOT.apply(np.zeros((4, 7)), np.zeros(3), far)
    NO_WORKSPACE.apply(np.zeros((4, 7)), None, far)


class Late(Executor):
    """Infers what was asked for so many steps ago, the first chunk at once."""

    def __init__(self, steps: int) -> None:
        self.steps, self.waiting = steps, []

    def submit(self, job):
        answer = Future()
        if self.waiting:
            self.waiting.append((self.steps, job, answer))
        else:
            self.waiting.append((-1, job, answer))
            answer.set_result(job())
        return answer

    def step(self) -> None:
        self.waiting = [(left - 1, job, answer) for left, job, answer in self.waiting]
        for left, job, answer in self.waiting:
            if left == 0:
                answer.set_result(job())


@pytest.mark.parametrize("late", [1, 2, 3])
@pytest.mark.parametrize("ask_after", [None, 1])
def test_chunks_that_overlap_keep_the_workspace(late, ask_after):
    draw = np.random.default_rng(late)
    position, farthest = np.zeros(3) + 0.1, 0.0

    def infer(seen: np.ndarray, committed: None, under_way: np.ndarray | None) -> SimpleNamespace:
        actions = np.ones((4, 7))
        actions[:, :3] = draw.choice([-0.3, 0.3, 0.3], (4, 3))
        return SimpleNamespace(actions=ROBOT.apply(actions, seen, under_way)[0], tokens=None)

    executor = Late(late)
    loop = AsynchronousLoop(infer, 10, ask_after=ask_after, clock=lambda: 0.0, executor=executor)
    for _ in range(200):
        position += 0.1 * loop.act(position.copy)[:3]
        farthest = max(farthest, *(position - ROBOT.workspace.high))
        executor.step()
    assert -0.01 < farthest < 1e-9
    loop.close()


@given(ACTIONS)
def test_no_step_turns_around(actions):
    limited, changed = NO_WORKSPACE.apply(actions)
    for part in (slice(0, 3), slice(3, 6)):
        before, after = actions[:, part], limited[:, part]
        cross = np.cross(before, after) / np.maximum(np.linalg.norm(before, axis=1, keepdims=True), 1e-12)
        assert np.allclose(cross, 0, atol=1e-6)
        assert ((before * after) >= 0).all()
    assert "workspace" not in changed


def test_actions_within_the_limits_are_not_touched():
    actions = np.array([[0.1, -0.2, 0.05, 0.1, 0.0, -0.3, 0.7]])
    limited, changed = ROBOT.apply(actions, np.zeros(3) + 0.1)
    assert np.array_equal(limited, actions)
    assert changed == {}


def test_steps_that_were_changed_are_counted():
    actions = np.array([[9, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 9, 2], [0, 0, 0, 0, 0, 0, -1.0]])
    assert NO_WORKSPACE.apply(actions)[1] == {"translation": 1, "rotation": 1, "gripper": 2}
    into_the_table = np.array([[0, 0, -0.4, 0, 0, 0, 0]])
    assert ROBOT.apply(into_the_table, np.array([0, 0, 0.01]))[1] == {"workspace": 1}


def test_a_workspace_that_cannot_be_kept_refuses():
    with pytest.raises(InputError, match="does not tell its position"):
        ROBOT.apply(np.zeros((4, 7)))


@pytest.mark.parametrize("position", [[450.0, 0, 200], [0, 0, -2.5], [0, 0, np.nan], [np.inf, 0, 0]])
def test_a_position_that_is_not_in_meters_is_no_way_out_of_the_workspace(position):
    with pytest.raises(InputError, match="outside the workspace, which no arm reaches; send meters"):
        ROBOT.apply(np.zeros((4, 7)), np.array(position))


def test_limits_and_the_checkpoint_must_not_contradict_each_other():
    assert Limits(translation=0.01).in_units(LIBERO).meters_per_unit == 0.05
    assert ROBOT.in_units(UNKNOWN) == ROBOT
    with pytest.raises(InputError, match="frame base, not gripper"):
        ROBOT.in_units(ActionUnits(frame="gripper"))
    with pytest.raises(
        InputError,
        match=r"meters a unit 1, not 0\.05; radians a unit 1, not 0\.5; rotation euler",
    ):
        Limits.load("franka").in_units(LIBERO)


@pytest.mark.parametrize(
    "limits", [Limits(translation=1.0), Limits(rotation=1.0), replace(ROBOT, meters_per_unit=None)]
)
def test_limits_in_unknown_units_are_refused(limits):
    with pytest.raises(InputError, match="what 1 in an action is"):
        limits.in_units(UNKNOWN)
    with pytest.raises(InputError, match="what 1 in an action is"):
        limits.apply(np.zeros((4, 7)), np.zeros(3))


def test_a_workspace_is_kept_for_actions_along_the_bases_axes_alone():
    nowhere = replace(ROBOT, frame=None)
    assert nowhere.in_units(ActionUnits(frame="base")).frame == "base"
    for units, said in ((ActionUnits(frame="gripper"), "is gripper"), (UNKNOWN, "is unknown")):
        with pytest.raises(InputError, match=f"frame {said}; add 'frame: base'"):
            nowhere.in_units(units)
    with pytest.raises(InputError, match="frame is unknown"):
        nowhere.apply(np.zeros((4, 7)), np.zeros(3))


def test_what_holds_is_said_in_a_sentence():
    assert Limits().describe().startswith("Limits: NONE but a gripper from 0 to 1, actions of unknown units;")
    assert ROBOT.describe() == (
        "Limits: at most 0.05 m a step, 0.3 rad a step, a workspace from (-0.2, -0.2, 0) to (0.2, 0.2, 0.3) m, "
        "a gripper from 0 to 1; actions 1 = 0.1 m, 0.5 rad."
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_limits_still_means_finite(bad):
    actions = np.zeros((4, 7))
    actions[2, 5] = bad
    with pytest.raises(UnsafeAction):
        Limits().apply(actions)
    with pytest.raises(UnsafeAction):
        Limits().apply(np.zeros((4, 6)))


@pytest.mark.parametrize("name", ["libero", "widowx", "franka", "droid"])
def test_shipped_limits_load(name):
    limits = Limits.load(name)
    assert limits.translation > 0
    assert limits.rotation > 0


def test_liberos_limits_touch_nothing_its_controller_would_take():
    corners = np.array([[x, y, z, r, p, w, 1.0] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)
                        for r in (-1, 1) for p in (-1, 1) for w in (-1, 1)])  # fmt: skip
    assert Limits.load("libero").apply(corners)[1] == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("translation: -1", "positive"),
        ("translation: .nan", "finite"),
        ("speed: 1", "unknown entries"),
        ("translation: fast", "could not convert"),
        ("gripper: [1, 0]", "smaller first"),
        ("gripper: [0, .nan]", "finite ends"),
        ("gripper: [0, .inf]", "finite ends"),
        ("workspace: {low: [0, 0, 0], high: [0, 1, 1]}", "corner"),
        ("workspace: {low: [0, 0, 0]}", "high"),
        ("workspace: {low: [0, 0, 0], high: [1, 1, 1], margin: 0.1}", "and nothing else"),
        ("workspace: {low: [0, 0, 0], high: [1, 1, true]}", "workspace.high must be a number, got True"),
        ("translation: true", "translation must be a number, got True"),
        ("gripper: '01'", "gripper must be a list of numbers"),
        ("{translation: 0.02, translation: 2}", "'translation' is there twice"),
        ("frame: world", "frame must be base or gripper, not 'world'"),
        ("notation: axis_angle", "notation must be euler or rotation_vector"),
        ("- 1", "holds no entries"),
        ("{", "no YAML"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text, sentence):
    file = tmp_path / "robot.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        Limits.load(str(file))


def test_an_unknown_robot_names_the_known():
    with pytest.raises(InputError, match="droid, franka, libero, widowx"):
        Limits.load("fetch")
