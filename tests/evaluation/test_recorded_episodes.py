"""Recordings of what the worker processes of an evaluation play."""

import numpy as np
import pytest
from fakes import FakeBenchmark, FakeExecutor, FakePolicy, K, conventions

from spatialvla.actions.units import LIBERO
from spatialvla.evaluation.play.runner import evaluate
from spatialvla.evaluation.results.policy_settings import PolicySettings

pytest.importorskip("rerun")
import torch

from rrd import Rrd
from spatialvla.viz.rerun.destination import Destination
from spatialvla.viz.rerun.recordings import Recordings
from spatialvla.viz.rerun.rig import Rig


class SeesDepth(FakePolicy):
    """Keeps a depth map of 2 m with the executor, as a policy does that is told to."""

    def decide(self, observations, executors: list[FakeExecutor]):
        for executor in executors:
            executor.depth = {0: torch.full((8, 8), 2.0)}
        return super().decide(observations, executors)


@pytest.fixture
def folder(tmp_path):
    recordings = Recordings(Destination(folder=tmp_path / "rrd"), Rig({"front": None}, LIBERO), "tests")
    evaluate(
        SeesDepth(),
        "fake",
        2,
        benchmark=FakeBenchmark(),
        settings=PolicySettings(),
        out=tmp_path,
        workers=2,
        tasks=[0, 1],
        recordings=recordings,
    )
    return tmp_path / "rrd"


def test_each_episode_of_all_workers_has_a_file_named_as_its_video(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"task{task:02d}_state{state:02d}.rrd" for task in range(2) for state in range(2)]
    videos = sorted(path.stem for path in (folder.parent / "videos").iterdir())
    assert videos == [name.removesuffix(".rrd") for name in names]


def test_a_recording_holds_decisions_steps_path_and_outcome(folder):
    found = Rrd(folder / "task01_state01.rrd")  # succeeds after 6 steps of x = 1
    assert list(found.arrays("actions/translation", "Scalars:scalars")) == list(range(6))
    assert list(found.arrays("robot/chunk", "Arrows3D:vectors")) == [0, 4]
    # The gripper moves on by a centimeter a step.
    np.testing.assert_allclose(
        found.arrays("robot/chunk", "Arrows3D:origins")[4][0], [0.04, 0, 0.2], rtol=1e-6
    )
    strips = found.arrays("robot/gripper/path", "LineStrips3D:strips")
    np.testing.assert_allclose(
        [strips[step][0][1][0] for step in range(1, 7)], 0.01 * np.arange(1, 7), rtol=1e-6
    )
    # The pictures are flipped and the camera is at the base: what is drawn at their left lies to the right.
    points = found.arrays("robot/points/front/estimated", "Points3D:positions")
    assert list(points) == [0, 4]
    np.testing.assert_allclose(points[0][0], np.linalg.inv(K) @ [1, 1, 1] * 2, rtol=1e-6)
    assert sorted(found.pictures("robot/cameras/front/image")) == [0, 4, 6]
    assert found.property("success") is True
    assert found.property("steps") == 6
    assert "open the drawer" in found.text()
    last = max(found.rows("actions/gripper", "Scalars:scalars", "time"))
    assert last == 5 * 10**9 // conventions().control_hz
