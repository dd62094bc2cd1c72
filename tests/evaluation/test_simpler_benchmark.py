"""SimplerEnv's WidowX tasks as a benchmark: rules as data, and episodes in the real simulator."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from fakes import FakePolicy

from spatialvla.actions.published_units import published_units
from spatialvla.actions.units import LIBERO, UNKNOWN
from spatialvla.errors import InputError
from spatialvla.evaluation.benchmarks.libero import LiberoBenchmark
from spatialvla.evaluation.benchmarks.protocol import Conventions, Inputs
from spatialvla.evaluation.benchmarks.registry import benchmark_for, check_suite
from spatialvla.evaluation.benchmarks.simpler import SUITES, SimplerBenchmark, SimplerTask, in_meters
from spatialvla.evaluation.play.jobs import Job
from spatialvla.evaluation.play.messages import Built, Decide, Decided, Setup
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.play.worker import _play_job
from spatialvla.evaluation.report.markdown import markdown_table
from spatialvla.evaluation.report.tables import success_table
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.outcomes import EpisodeResult
from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.serving.vla_eval.commands import rotation_vector
from spatialvla.simulation.widowx.env import CAMERA
from spatialvla.simulation.widowx.expert import WidowXExpert
from spatialvla.types import ActionChunk, Observation

SUITE = SUITES[0]


def test_suites_find_their_benchmark():
    assert benchmark_for("simpler_widowx", 56) == SimplerBenchmark()
    assert SimplerBenchmark().takes == published_units("bridge_orig")
    assert LiberoBenchmark().takes == LIBERO
    assert benchmark_for("simpler_widowx", 224, UNKNOWN).units.meters == 1
    assert benchmark_for("simpler_widowx", 56, LIBERO).units == replace(LIBERO, control_hz=None)
    assert benchmark_for("libero_spatial", 56) == LiberoBenchmark(128)
    assert benchmark_for("libero_spatial", 224) == LiberoBenchmark(256)
    with pytest.raises(
        InputError, match=r"suite 'bridge_v2'; choose from libero_spatial, .*, simpler_widowx"
    ):
        benchmark_for("bridge_v2", 224)


@pytest.mark.parametrize(
    ("suite", "meant"),
    [("simpler_widow", "simpler_widowx"), ("widowx", "simpler_widowx"), ("libro_goal", "libero_goal")],
)
def test_a_mistyped_suite_is_answered_with_the_closest(suite, meant):
    with pytest.raises(InputError, match=f"no suite '{suite}' here|has a suite '{suite}'") as error:
        check_suite(suite)
    assert meant in str(error.value)
    check_suite("simpler_widowx")


def test_actions_in_other_units_become_meters_and_angles():
    action = np.array([0.02, -0.01, 0.01, 0.3, -0.2, 0.4, 1.0])
    turned = np.array([*action[:3], *rotation_vector(action[3:6]), 1.0])
    units = SimplerBenchmark.for_policy(56, LIBERO, Inputs()).units
    found = in_meters(turned / np.repeat([0.05, 0.5, 1], [3, 3, 1]), units)
    np.testing.assert_allclose(found, action, atol=1e-12)
    np.testing.assert_array_equal(in_meters(action, SimplerBenchmark().units), action)


def test_rules_are_data():
    benchmark = pickle.loads(pickle.dumps(SimplerBenchmark()))
    conventions = benchmark.conventions(SUITE)
    assert [conventions.limit(task) for task in range(4)] == [60, 60, 60, 120]
    assert conventions.control_hz == 5
    assert not conventions.ends_on_success
    assert "grasped" in conventions.partial
    assert len(benchmark.instructions(SUITE)) == 4
    with pytest.raises(InputError, match="no suite 'simpler_google' here"):
        benchmark.instructions("simpler_google")


class Counting:
    """Succeeds at steps 2 to 4 and is grasped from step 3 on."""

    ended, chose = False, None

    def __init__(self) -> None:
        self.steps = 0

    @property
    def partial(self) -> bool:
        return self.steps >= 3

    def start(self, start_state: int) -> None:
        self.steps = 0

    def step(self, action: np.ndarray) -> bool:
        self.steps += 1
        return 2 <= self.steps <= 4

    def observe(self, depth: bool):
        return Observation(np.zeros((4, 4, 3), np.uint8), "wait")

    def close(self) -> None:
        pass


class Connection:
    """Answers with two steps at a time, and keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[object] = []

    def send(self, message: object) -> None:
        self.sent.append(message)

    def recv(self) -> Decided:
        still = np.zeros((2, 7))
        return Decided(still, ActionChunk(still, np.zeros((2, 3), np.int64)), {})


@pytest.mark.parametrize(("limit", "success"), [(4, True), (6, False)])
def test_an_episode_lasts_to_its_limit_and_counts_as_it_ends(limit, success):
    conventions = replace(SimplerBenchmark().conventions(SUITE), time_limit=(1, limit))

    class Benchmark:
        def open(self, suite: str, task: int, conventions: Conventions) -> Counting:
            return Counting()

    connection = Connection()
    _play_job(connection, Setup(Benchmark(), conventions, False, None), Job(SUITE, 1, (0,)))
    built, *decisions, result = connection.sent
    assert isinstance(built, Built)
    assert [d.step for d in decisions if isinstance(d, Decide)] == list(range(0, limit, 2))
    assert isinstance(result, EpisodeResult)
    assert (result.steps, result.success, result.partial) == (limit, success, True)


def test_the_table_shows_partial_success():
    benchmark = SimplerBenchmark()
    episodes = [EpisodeResult(0, i, i == 0, 60, 1.0, partial=i < 2) for i in range(3)]
    results = Results(
        suite=SUITE,
        policy="x",
        checkpoint=None,
        depth="estimate",
        episodes_per_task=3,
        tasks={0: benchmark.instructions(SUITE)[0]},
        conventions=benchmark.conventions(SUITE),
        versions={},
        started="",
        episodes=tuple(episodes),
    )
    header, _, row, total = markdown_table(success_table(results)).splitlines()
    assert header.endswith("| Partial |")
    assert row.endswith("| 2/3 |")
    assert "| 1/3 | 33" in total
    assert Results.from_json(results.to_json()) == results


# --------------------------------------------------------- the real simulator


@pytest.fixture(scope="module")
def environment():
    benchmark = SimplerBenchmark()
    try:
        opened = benchmark.open(SUITE, 2, benchmark.conventions(SUITE))
    except InputError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.mark.sim
def test_what_the_policy_sees(environment):
    environment.start(0)
    plain, deep = environment.observe(depth=False), environment.observe(depth=True)
    assert plain.image.shape == (480, 640, 3)
    assert plain.image.dtype == np.uint8
    assert plain.depth is None
    assert np.array_equal(plain.image, deep.image)
    np.testing.assert_allclose(
        plain.intrinsics, [[623.588, 0, 319.501], [0, 623.588, 239.545], [0, 0, 1]], atol=1e-3
    )
    assert plain.instruction == environment.env._env.get_language_instruction()[0]
    assert deep.depth.shape == (480, 640)
    # The green cube, where the intrinsics and the camera's pose say it is, as far as the depth says.
    camera = environment.env._env.scene.sensors[CAMERA]
    extrinsic = camera.get_params()["extrinsic_cv"][0].double().numpy()
    world = environment.env._env.objs["baked_green_cube_3cm"].pose.p[0].double().numpy()
    point = extrinsic[:, :3] @ (world + np.array([0, 0, 0.015])) + extrinsic[:, 3]  # the middle of its top
    u, v = (plain.intrinsics @ point)[:2] / point[2]
    red, green, blue = plain.image[int(v), int(u)].astype(int)
    assert green > red
    assert green >= blue
    assert deep.depth[int(v), int(u)] == pytest.approx(point[2], abs=0.01)


@pytest.mark.sim
def test_a_policy_that_counts_in_other_units_moves_the_arm_as_far(environment):
    action = np.array([0.02, -0.01, 0.01, 0.1, 0.0, -0.05, 1.0])
    environment.start(0)
    environment.step(action)
    expected = environment.env.state()
    other = SimplerTask(environment.env, LIBERO)
    other.start(0)
    turned = np.array([*action[:3], *rotation_vector(action[3:6]), 1.0])
    other.step(turned / np.repeat([0.05, 0.5, 1], [3, 3, 1]))
    np.testing.assert_allclose(environment.env.state(), expected, atol=1e-6)


@pytest.mark.sim
def test_there_are_24_start_states(environment):
    with pytest.raises(InputError, match="24 start states"):
        environment.start(24)


@pytest.mark.sim
def test_partial_success_starts_anew_with_each_episode(environment):
    environment.start(0)
    expert = WidowXExpert(environment.env)
    for _ in range(30):
        environment.step(expert())
    assert environment.partial
    environment.start(1)
    assert not environment.partial


@pytest.mark.sim
def test_an_evaluation_in_the_real_simulator(tmp_path, environment):
    results = evaluate(
        FakePolicy(),
        SUITE,
        1,
        benchmark=Short(),
        settings=PolicySettings(),
        out=tmp_path,
        workers=1,
        tasks=[1],
        depth="simulator",
    )
    (episode,) = results.episodes
    assert (episode.steps, episode.success, episode.partial) == (6, False, False)
    assert (tmp_path / episode.video).stat().st_size > 1000


class Short(SimplerBenchmark):
    def conventions(self, suite: str) -> Conventions:
        return replace(super().conventions(suite), time_limit=(6, 6, 6, 6))
