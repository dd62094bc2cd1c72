from dataclasses import dataclass, replace

import av
import numpy as np
import pytest
from fakes import FakePolicy

from spatialvla.evaluation.libero import LiberoBenchmark
from spatialvla.evaluation.protocol import Conventions
from spatialvla.evaluation.runner import evaluate

pytestmark = pytest.mark.sim


@dataclass(frozen=True)
class ShortLibero(LiberoBenchmark):
    def conventions(self, suite: str) -> Conventions:
        return replace(super().conventions(suite), time_limit=6)


def test_an_episode_in_the_real_simulator(tmp_path):
    class Watcher(FakePolicy):
        def predict(self, observations):
            self.seen = observations
            return super().predict(observations)

    policy = Watcher()
    results = evaluate(
        policy,
        "libero_spatial",
        1,
        benchmark=ShortLibero(),
        out=tmp_path,
        workers=1,
        tasks=[3],
        depth="simulator",
    )
    (episode,) = results.episodes
    assert (episode.steps, episode.success) == (6, False)
    assert results.tasks == {3: "pick up the black bowl on the cookie box and place it on the plate"}
    (seen,) = policy.seen
    assert seen.image.shape == (128, 128, 3)
    assert seen.depth.shape == (128, 128)
    assert 0.3 < np.median(seen.depth) < 3
    with av.open(str(tmp_path / episode.video)) as container:
        assert len(list(container.decode(video=0))) == 4


def test_every_installed_suite_has_tasks_and_rules():
    from spatialvla.simulation.tasks import suites

    benchmark = LiberoBenchmark()
    assert {"libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"} <= set(suites())
    for suite in suites():
        assert all(benchmark.instructions(suite))
        assert benchmark.conventions(suite).time_limit >= 220
