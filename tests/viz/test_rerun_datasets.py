"""Episodes of a dataset, recorded for Rerun and read back."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rerun")
from fake_source import FakeSource

from rrd import Rrd
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.sources import open_source
from spatialvla.viz.rerun.dataset import record_episode
from spatialvla.viz.rerun.destination import Destination

DEPTH = Path(__file__).parents[1] / "data" / "lerobot_v3_depth"


def test_an_episode_keeps_its_actions_pictures_and_depth(tmp_path):
    source = open_source(DEPTH, mapping=FeatureMapping(image="observation.images.top"))
    episode = source.episode(0)
    record_episode(source, 0, Destination(folder=tmp_path))
    found = Rrd(tmp_path / "episode000000.rrd")
    steps = len(episode.actions)
    scale = source.units.meters or 1.0
    moved = found.arrays("actions/translation", "Scalars:scalars")
    np.testing.assert_allclose([moved[step] for step in range(steps)], scale * episode.actions[:, :3])
    places = {entity for entity in found.entities if entity.endswith("/depth/measured")}
    assert places
    first = episode.depth([0])
    assert first is not None
    (entity,) = [place for place in places if "/image/" in place]
    shown = found.pictures(entity, "EncodedDepthImage")[0] / 1000
    stands = episode.extrinsics is not None and np.linalg.det(episode.extrinsics[0][:3, :3]) < 0
    np.testing.assert_allclose(shown, first[0][:, ::-1] if stands else first[0], atol=6e-4)
    assert found.property("steps") == steps


def test_pictures_of_other_steps_are_not_shown(tmp_path):
    source = FakeSource("sparse", (6,), no_ops=frozenset({1, 2, 4}))
    record_episode(source, 0, Destination(folder=tmp_path))
    found = Rrd(tmp_path / "episode000000.rrd")
    assert list(found.pictures("unplaced/image/camera/image")) == [0, 3, 5]
    assert list(found.rows("actions/translation", "Scalars:scalars")) == list(range(6))
