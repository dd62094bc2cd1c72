"""Datasets are known by what lies in their folder."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
import rh20t_writer as make

from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.rh20t import RH20TSource
from spatialvla.data.sources import find_dataset, open_source
from spatialvla.errors import InputError

HERE = Path(__file__).parent
RLDS = HERE / "rlds" / "bridge_orig"
LEROBOT = HERE / "lerobot_v3"
TOP = FeatureMapping(image="observation.images.top")


def test_rlds_folders_and_the_folder_around_their_versions(tmp_path):
    source = open_source(RLDS, cache=tmp_path)
    assert isinstance(source, OXESource)
    assert (source.key, source.control_hz, len(source)) == ("bridge_orig/1.0.0", 5.0, 4)
    around = tmp_path / "bridge_orig"
    around.mkdir()
    (around / "1.0.0").symlink_to(RLDS)
    assert open_source(around, cache=tmp_path).key == source.key
    assert open_source(str(RLDS), spec="bridge_orig", cache=tmp_path).key == source.key
    (around / "2.0.0").symlink_to(RLDS)
    assert open_source(around, cache=tmp_path).dataset.storage.root == str(around / "1.0.0")


def test_rlds_at_a_url(tmp_path):
    memory = fsspec.filesystem("memory")
    for path in RLDS.iterdir():
        memory.pipe(f"/datasets/bridge_orig/1.0.0/{path.name}", path.read_bytes())
    for url in ("memory://datasets/bridge_orig/1.0.0", "memory://datasets/bridge_orig"):
        source = open_source(url, cache=tmp_path)
        assert source.episode(1).instruction.startswith("put the red block")
    with pytest.raises(InputError, match="memory://nothing is no dataset"):
        open_source("memory://nothing", cache=tmp_path)
    with pytest.raises(InputError, match="cannot be listed"):
        open_source("nosuchprotocol://x/y")


def test_lerobot_folders_and_names(tmp_path, monkeypatch):
    source = open_source(LEROBOT, mapping=TOP)
    assert isinstance(source, LeRobotSource)
    assert source.key == "lerobot_v3"
    monkeypatch.setenv("HF_LEROBOT_HOME", str(HERE))
    assert len(open_source("lerobot_v3", mapping=TOP)) == 5
    assert find_dataset("lerobot_v3") == LEROBOT
    (tmp_path / "mapping.yaml").write_text("image: observation.images.wrist\nkey: mine\n")
    assert open_source(LEROBOT, mapping=tmp_path / "mapping.yaml").key == "mine"


def test_rh20t_folders(tmp_path):
    make.write_descriptions(tmp_path)
    make.write_scene(tmp_path / make.scene(1, 1), make.START + np.arange(4) * 100)
    assert isinstance(open_source(tmp_path), RH20TSource)
    with pytest.raises(InputError, match="is an RH20T dataset, which takes no spec"):
        open_source(tmp_path, spec="bridge_orig")


def test_what_is_no_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    with pytest.raises(
        InputError, match=r"holds neither dataset_info\.json .* nor meta/info\.json .* nor task_"
    ):
        open_source(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is no dataset"):
        open_source(tmp_path / "file")
    with pytest.raises(InputError, match="There is no dataset 'absent'"):
        open_source("absent")
    with pytest.raises(InputError, match="which takes no mapping"):
        open_source(RLDS, mapping=TOP, cache=tmp_path)
    with pytest.raises(InputError, match="which takes no spec"):
        open_source(LEROBOT, spec="bridge_orig")
