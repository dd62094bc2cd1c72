"""Gymnasium environments as benchmarks: a mapping's lines, units on the way, episodes and results."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from fakes import FakePolicy

from spatialvla.actions.units import LIBERO, UNKNOWN, ActionUnits
from spatialvla.cli.main import main
from spatialvla.common.entries import from_entries
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.gym import GymBenchmark, checked_gym
from spatialvla.evaluation.benchmarks.protocol import FIRST_CAMERA_ALONE, Inputs
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.geometry.extrinsics import pose_matrix, project
from spatialvla.geometry.rotations import euler, matrices
from spatialvla.simulation.gym.commands import Commands
from spatialvla.simulation.gym.env import GymEnv
from spatialvla.simulation.gym.mapping import GymMapping
from spatialvla.types import ActionChunk

gymnasium = pytest.importorskip("gymnasium")
tiny_gym = pytest.importorskip("tiny_gym")

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
TINY = "tiny_gym:TinyReach-v0"
LINES = {
    "instruction": "reach the green square",
    "image": "render",
    "state": {"feature": ["observation/agent/hand", "observation/target"]},
    "action": {"meters": 0.02, "rotation": "none", "frame": "base"},
    "gripper": {"open": -1, "closed": 1},
    "control_hz": 5,
    "success": "info/is_success",
    "max_steps": 40,
}
BRIDGE = ActionUnits(1.0, 1.0, "euler", "base", (0.0, 1.0), 5.0)


@pytest.fixture
def written(tmp_path):
    """Writes the mapping with other lines; None takes one away."""

    def write(**lines: object) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in (LINES | lines).items() if v is not None}))
        return path

    return write


@pytest.fixture
def opened(written):
    """The environment under the mapping with other lines, just reset."""
    envs = []

    def open_env(units: ActionUnits = UNKNOWN, seed: int = 0, **lines: object) -> GymEnv:
        envs.append(GymEnv(TINY, GymMapping.load(written(**lines)), units))
        envs[-1].reset(seed)
        return envs[-1]

    yield open_env
    for env in envs:
        env.close()


class Expert(FakePolicy):
    """Goes straight to the target, which it reads in the state. Its actions are meters."""

    def predict(self, observations):
        super().predict(observations)
        return [self.chunk(observation.state) for observation in observations]

    def chunk(self, state):
        way = state[3:6] - state[:3]
        return ActionChunk(np.array([[*way, 0, 0, 0, 1.0]]), np.zeros((1, 3), np.int64))


def commands(units: ActionUnits, rotation: str = "none", size: int = 4, **lines: object) -> Commands:
    action = {"meters": 0.05, "rotation": rotation, "frame": "base"}
    if rotation != "none":
        action["radians"] = 0.5
    base = {**LINES, "action": action | lines.pop("action", {}), **lines}
    return Commands(from_entries(GymMapping, base, "a mapping"), units, -np.ones(size), np.ones(size))


def test_lengths_are_scaled_the_gripper_is_turned_around_and_all_is_cut_off_at_the_bounds():
    action = np.array([0.01, -0.02, 0.2, 0.3, 0.3, 0.3, 1.0])
    np.testing.assert_allclose(commands(BRIDGE)(action), [0.2, -0.4, 1.0, -1.0])
    halfway = np.array([0.5, 0, 0, 0, 0, 0, 0.25])
    np.testing.assert_allclose(commands(LIBERO)(halfway), [0.5, 0, 0, 0.5])
    np.testing.assert_allclose(commands(UNKNOWN)(halfway), [0.5, 0, 0, 0.5])


def test_rotations_are_turned_into_the_environments_notation_and_unit():
    angles = np.array([0.1, -0.2, 0.15])
    action = np.array([0, 0, 0, *angles, 0.5])
    same = commands(BRIDGE, "euler", 7)(action)
    np.testing.assert_allclose(same[3:6], angles / 0.5)
    vector = commands(BRIDGE, "axis_angle", 7)(action)[3:6] * 0.5
    np.testing.assert_allclose(
        matrices(vector[None], "axis_angle"), matrices(angles[None], "euler"), atol=1e-9
    )
    turned = commands(LIBERO, "euler", 7)(action)[3:6] * 0.5
    np.testing.assert_allclose(turned, euler(matrices(angles[None] * 0.5, "axis_angle"))[0])


def test_numbers_go_where_the_indices_say_and_others_stay_still():
    command = commands(LIBERO, size=6, action={"indices": [2, 1, 0, 5]})(
        np.array([0.1, 0.2, 0.3, 9, 9, 9, 0])
    )
    np.testing.assert_allclose(command, [0.3, 0.2, 0.1, 0, 0, 1])


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ({"imag": "render"}, "unknown key 'imag'; the closest are image"),
        ({"success": None}, "a mapping lacks 'success'"),
        ({"image": "pixels"}, "'pixels' is no feature of an environment; write observation/… or info/…"),
        ({"action": {"meters": 0.05, "rotation": "none"}}, "action lacks 'frame'"),
        ({"action": {"meters": -1.0, "rotation": "none", "frame": "base"}}, "positive and finite"),
        ({"action": {"meters": 1.0, "rotation": "euler", "frame": "base"}}, "needs the line 'radians'"),
        ({"action": {**LINES["action"], "indices": [0, 1, 2]}}, "name 3 numbers, and there are 4"),
        ({"action": {**LINES["action"], "indices": [0, 1, 2, 2]}}, "different numbers from 0"),
        ({"gripper": {"open": 1, "closed": 1}}, "two different finite ends"),
        ({"field_of_view": 60.0, "intrinsics": "info/K"}, "a field_of_view or intrinsics"),
        ({"field_of_view": 1.2e3}, "1 to 150 degrees"),
        ({"flip": ["rows", "rows"]}, "flip names rows twice"),
        ({"success": {"reward": float("nan")}}, "a reward of success is finite"),
        ({"instruction": " "}, "the instruction is empty"),
        ({"flip": ["up"]}, "choose from rows, columns"),
        ({"max_steps": 0}, "max_steps is at least 1"),
        ({"control_hz": 2.5}, "control_hz is 2.5, which is no int"),
        ({"make": {"render_mode": "human"}}, "make has no 'render_mode'"),
        ({"cameras": {"wrist": {"image": "wrist"}}}, "'wrist' is no feature"),
    ],
)
def test_lines_that_cannot_be_used_are_named(written, lines, sentence):
    with pytest.raises(InputError, match=r"tiny\.yaml") as error:
        GymMapping.load(written(**lines))
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("env_id", "lines", "sentence"),
    [
        ("no_such_package:Robot-v0", {}, "Gymnasium cannot make 'no_such_package:Robot-v0'"),
        ("tiny_gym:TinyReech-v0", {}, "Gymnasium cannot make 'tiny_gym:TinyReech-v0'"),
        (TINY, {"make": {"size": 3}}, "unexpected keyword argument 'size'"),
        (TINY, {"gripper": None}, "has 4 numbers, and the mapping tells of 3"),
        (TINY, {"action": {**LINES["action"], "indices": [0, 1, 2, 7]}}, "has the indices 0 to 3, not 7"),
        (TINY, {"image": "observation/pixel"}, "did you mean observation/pixels or"),
        (TINY, {"image": "observation/target"}, "which is no picture"),
        (TINY, {"state": {"feature": ["info/joints"]}}, "has no 'info/joints'"),
        ("CartPole-v1", {}, "its actions are Discrete(2), not numbers in a row"),
    ],
)
def test_environments_that_a_mapping_is_not_of_are_refused(written, env_id, lines, sentence):
    with pytest.raises(InputError) as error:
        checked_gym(env_id, written(**lines))
    assert sentence in str(error.value)


def test_a_policy_sees_what_the_mapping_names(opened):
    env = opened(image="observation/pixels", flip=["rows"], instruction={"feature": "info/language"})
    seen = env.observe()
    np.testing.assert_array_equal(seen.image, env.env.render())
    assert seen.instruction == "reach the green square"
    assert seen.intrinsics is None
    assert seen.depth is None
    np.testing.assert_array_equal(seen.state, [0, 0, 0, *env.env.unwrapped.target])
    both = opened(flip=["rows", "columns"]).observe().image
    np.testing.assert_array_equal(both, np.rot90(seen.image, 2))


def test_cameras_have_intrinsics_depth_and_a_place(opened, tmp_path):
    pose = pose_matrix(np.array([0.4, 0.0, 0.5]), np.diag([1.0, -1.0, -1.0]))
    base = pose_matrix(np.array([-0.6, 0, 0]), np.eye(3))
    env = opened(
        field_of_view=90.0,
        depth={"feature": "info/depth", "meters": 0.001},
        extrinsics={"matrix": pose.tolist(), "base": base.tolist(), "mirrored": True},
        cameras={"wrist": {"image": "observation/pixels", "extrinsics": {"feature": "info/pose"}}},
    )
    seen = env.observe(depth=False)
    np.testing.assert_allclose(seen.intrinsics, [[16, 0, 16], [0, 16, 16], [0, 0, 1]])
    np.testing.assert_allclose(seen.extrinsics[:3, 3], [1.0, 0, 0.5])
    assert seen.mirrored
    assert seen.images["wrist"].extrinsics[1, 1] == -1
    with pytest.raises(InputError, match="no depth of the camera wrist"):
        env.observe(depth=True)
    deep = opened(depth={"feature": "info/depth", "meters": 0.001}).observe(depth=True)
    assert np.unique(deep.depth) == 1.5


def test_a_robots_calibration_tells_of_cameras_also_of_one_in_the_hand(opened, tmp_path):
    K = [[32, 0, 32], [0, 32, 32], [0, 0, 1]]
    still = pose_matrix(np.array([0.4, 0.0, 0.5]), np.diag([1.0, -1.0, -1.0])).tolist()
    cameras = {
        "image": {"K": K, "height": 64, "width": 64, "extrinsics": still},
        "wrist": {"K": K, "height": 64, "width": 64, "hand_eye": np.eye(4).tolist()},
    }
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump({"cameras": cameras}))
    env = opened(
        calibration="robot.yaml",
        cameras={"wrist": {"image": "observation/pixels"}},
        gripper_pose={"feature": ["observation/agent/hand", "observation/target"], "rotation": "axis_angle"},
    )
    seen = env.observe()
    np.testing.assert_allclose(seen.intrinsics, [[16, 0, 16], [0, 16, 16], [0, 0, 1]])
    np.testing.assert_allclose(seen.extrinsics, still)
    target = env.env.unwrapped.target
    np.testing.assert_allclose(
        seen.images["wrist"].extrinsics[:3, :3], matrices(target[None], "axis_angle")[0], atol=1e-9
    )


class Odd(tiny_gym.TinyReach):
    """An environment with something wrong. says: its info's entries; reward, starts, steps: what it gives."""

    def __init__(self, render_mode=None, says=None, reward=0.0, starts=True, steps=True, whole=False):
        super().__init__(render_mode)
        self.says, self.reward, self.starts, self.steps = says or {}, reward, starts, steps
        if whole:
            self.action_space = gymnasium.spaces.Box(-1, 1, (4,), np.int64)

    def reset(self, *, seed=None, options=None):
        if not self.starts:
            raise KeyError("scene")
        return super().reset(seed=seed)

    def step(self, action):
        if not self.steps:
            raise RuntimeError("the arm\nis gone.")
        seen, _, ended, cut, info = super().step(action)
        return seen, self.reward, ended, cut, info

    def _info(self):
        return super()._info() | self.says


gymnasium.register("Odd-v0", entry_point=Odd)


@pytest.mark.parametrize(
    ("make", "lines", "sentence"),
    [
        ({"starts": False}, {}, "does not start (KeyError: 'scene')"),
        ({"steps": False}, {}, "does not take a step (RuntimeError: the arm is gone); correct"),
        ({"whole": True}, {}, "whole numbers, to which no motion is cut off"),
        ({"nothing": 1}, {}, "Gymnasium cannot make"),
        (
            {"reward": float("nan")},
            {"success": {"reward": 0.5}},
            "a reward of nan, which is no finite number",
        ),
        ({"reward": None}, {"success": {"reward": 0.5}}, "a reward of None"),
        (
            {"says": {"is_success": float("nan")}},
            {},
            "says nan in info/is_success, which is not true or false",
        ),
        ({"says": {"is_success": "no"}}, {}, "says 'no' in info/is_success"),
        ({}, {"success": "observation/agent"}, "in observation/agent, which is not true or false"),
        ({"says": {"language": None}}, {"instruction": {"feature": "info/language"}}, "no instruction"),
        ({"says": {"K": [[1.0, 2.0]]}}, {"intrinsics": "info/K"}, "Intrinsics must be a 3x3 matrix"),
        ({"says": {"pose": "up"}}, {"extrinsics": {"feature": "info/pose"}}, "info/pose as something else"),
        ({"says": {"pose": [1.0]}}, {"extrinsics": {"feature": "info/pose"}}, "must be a 4x4 matrix"),
        ({}, {"state": {"feature": ["observation/target"], "indices": [9]}}, "indices 0 to 2, not 9"),
        ({}, {"state": {"feature": ["observation/targets"]}}, "did you mean observation/target"),
        (
            {},
            {"gripper_pose": {"feature": ["observation/target"], "rotation": "axis_angle"}},
            "holds 3 numbers, not the 6 of position and rotation",
        ),
    ],
)
def test_what_an_environment_gives_wrong_is_told_and_never_a_success(written, make, lines, sentence):
    def play() -> None:
        env = GymEnv("Odd-v0", GymMapping.load(written(make=make, **lines)))
        env.reset(0)
        env.observe()
        env.step(np.zeros(7))

    with pytest.raises(InputError) as error:
        play()
    assert sentence in str(error.value)


def test_an_environment_that_ends_while_things_settle_is_not_stepped_further(opened):
    with pytest.raises(InputError, match="give fewer settle_steps"):
        opened(make={"falls_at": -1.0}, settle_steps=3)


def test_a_mapping_is_told_by_its_calibration_and_not_by_where_that_lies(written, tmp_path, monkeypatch):
    robot = tmp_path / "robot.yaml"
    lines = {"instruction": "go", "calibration": "robot.yaml"}
    robot.write_text("a: 1")
    digest = GymMapping.load(path := written(**lines)).digest
    monkeypatch.chdir(tmp_path)
    assert GymMapping.load(path.name).digest == digest
    robot.write_text("a: 2")
    assert GymMapping.load(path).digest != digest


def test_success_is_what_the_mapping_takes_for_it(opened):
    way = opened().env.unwrapped.target / 0.02 / 12
    for success in ("info/is_success", {"reward": -0.02}):
        env = opened(success=success)
        reached = [env.step(np.array([*way, 0, 0, 0, 1])) for _ in range(12)]
        assert reached[-1]
        assert not any(reached[:9])
        assert not env.ended
    over = opened(success="terminated", make={"falls_at": 0.01})
    assert over.step(np.array([1.0, 0, 0, 0, 0, 0, 1]))
    assert over.ended


def test_settling_holds_still_with_the_gripper_open_and_is_not_counted(opened):
    env = opened(settle_steps=3, max_steps=2)
    np.testing.assert_array_equal(env.env.unwrapped.commands, [[0, 0, 0, -1]] * 3)
    env.step(np.zeros(7))
    assert not env.ended
    env.step(np.zeros(7))
    assert env.ended  # the environment's own limit of 7 steps is not asked


def test_a_policy_in_other_units_plays_and_one_that_is_wrong_for_the_robot_does_not(written):
    factory = checked_gym(TINY, written())
    benchmark = factory(224, LIBERO, FIRST_CAMERA_ALONE)
    assert benchmark.takes == replace(LIBERO, control_hz=5.0)
    assert LIBERO.differences(benchmark.takes) == ("control rate in Hz 20, not 5",)
    other = replace(BRIDGE, frame="gripper")
    assert other.differences(factory(224, other, FIRST_CAMERA_ALONE).takes) == ("frame gripper, not base",)
    assert pickle.loads(pickle.dumps(benchmark)) == benchmark
    inputs = Inputs(("wrist",), ("x", "y"))
    with pytest.raises(InputError, match=r"a state of 2 numbers \(x, y\), and .* names 6"):
        factory(224, BRIDGE, inputs)
    without = checked_gym(TINY, written(state=None))(224, BRIDGE, inputs)
    assert without.left_out == ("the camera 'wrist'", "the arm's state")


def play(tmp_path: Path, written, policy=None, episodes: int = 2, **lines: object) -> Results:
    benchmark = checked_gym(TINY, written(**lines))(224, BRIDGE, Inputs((), tuple("abcdef")))
    return evaluate(
        policy or Expert(),
        TINY,
        episodes,
        benchmark=benchmark,
        settings=PolicySettings(),
        out=tmp_path / "out",
        workers=1,
    )


def test_an_expert_succeeds_from_each_seed_in_the_workers(tmp_path, written):
    results = play(tmp_path, written, episodes=3)
    assert results.complete
    assert [episode.success for episode in results.episodes] == [True] * 3
    steps = [episode.steps for episode in results.episodes]
    assert len(set(steps)) > 1  # another seed, another target
    assert max(steps) <= 18  # 35 cm at 2 cm a step, and the last bit
    assert results.versions["gymnasium"] == gymnasium.__version__
    assert all((tmp_path / "out" / episode.video).stat().st_size for episode in results.episodes)


def test_an_episode_that_the_environment_ends_has_failed_and_the_next_one_is_played(tmp_path, written):
    results = play(tmp_path, written, FakePolicy(), episodes=2, make={"falls_at": 0.05})
    assert [(episode.success, episode.steps) for episode in results.episodes] == [(False, 3)] * 2


def test_the_command_plays_resumes_and_refuses_another_mapping(tmp_path, written, capsys):
    command = ["evaluate", "--policy", str(CHECKPOINT), "--dataset", "bridge_orig/1.0.0", "--gym", TINY]
    command += ["--workers", "1", "--decisions", "1", "--out", str(tmp_path / "{suite}")]
    out = tmp_path / "tiny_gym-TinyReach-v0"
    path = written(max_steps=4, state=None)
    main([*command, "--mapping", str(path), "--episodes-per-task", "1"])
    first = Results.load(out / "results.json")
    assert (first.suite, first.complete, first.tasks) == (TINY, True, {0: "reach the green square"})
    assert "reach the green square" in (out / "report.html").read_text(encoding="utf-8")
    main([*command, "--mapping", str(path), "--episodes-per-task", "2"])
    assert Results.load(out / "results.json").episodes[0] == first.episodes[0]
    with pytest.raises(SystemExit):
        main([*command, "--mapping", str(written(max_steps=5, state=None)), "--episodes-per-task", "2"])
    assert "holds results of something else" in capsys.readouterr().err
    for wrong, sentence in (
        ([*command], "--mapping is missing"),
        ([*command, "--mapping", str(path), "--suite", "libero_goal"], "give one of the two"),
        (["evaluate", "--policy", "nano", "--mapping", str(path)], "--mapping says what an environment"),
        (
            ["evaluate", "--policy", "nano", "--gym", TINY, "--mapping", str(path)],
            "control rate in Hz 20, not 5",
        ),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert sentence in " ".join(capsys.readouterr().err.split())


class Picker(Expert):
    """Takes panda-gym's block and brings it to its target. State: the gripper, its width, the block, the target."""

    def chunk(self, state):
        hand, width, block, target = state[:3], state[3], state[4:7], state[7:10]
        away = np.linalg.norm(hand - block)
        if away < 0.03 and width < 0.045:
            way, opening = np.clip(target - block, -0.02, 0.02), 0.0  # a block that is carried fast slips
        elif away < 0.01:
            way, opening = np.zeros(3), 0.0
        else:
            above = np.linalg.norm(hand[:2] - block[:2]) > 0.01
            way, opening = np.clip(block - hand, -0.03, 0.03), 1.0
            way[2] = block[2] + 0.06 - hand[2] if above else way[2]
        return ActionChunk(np.array([[*way, 0, 0, 0, opening]]), np.zeros((1, 3), np.int64))


@pytest.mark.sim
def test_an_expert_picks_and_places_in_panda_gym_as_the_page_describes_it(tmp_path):
    pytest.importorskip("panda_gym")
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "gymnasium.md").read_text(encoding="utf-8")
    file = tmp_path / "panda.yaml"
    file.write_text(page.split("```yaml\n")[1].split("```")[0])
    env_id = "panda_gym:PandaPickAndPlace-v3"
    env = GymEnv(env_id, GymMapping.load(file))
    env.reset(0)
    seen = env.observe()
    (pixel,), _ = project(seen.state[None, 4:7] + [0.6, 0, 0], seen.intrinsics, seen.extrinsics)
    green = (seen.image[..., 1] > seen.image[..., 0] + 60) & (seen.image[..., 1] > 120)
    rows, columns = np.nonzero(green)
    assert np.hypot(columns - pixel[0], rows - pixel[1]).min() < 2
    assert green[int(pixel[1]) - 2 : int(pixel[1]) + 2, int(pixel[0]) - 2 : int(pixel[0]) + 2].all()
    env.close()
    benchmark = checked_gym(env_id, file)(
        224, replace(BRIDGE, control_hz=25.0), Inputs((), tuple("0123456789"))
    )
    assert isinstance(benchmark, GymBenchmark)
    results = evaluate(
        Picker(), env_id, 5, benchmark=benchmark, settings=PolicySettings(), out=tmp_path / "out", workers=2
    )
    assert results.total.successes == 5
    assert results.versions["panda-gym"]
