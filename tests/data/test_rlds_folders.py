"""RLDS datasets are found under each of their names, and in the folder of the version that their spec is of."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest
from rlds_writer import write_steps

from spatialvla.data.oxe.folders import mixture_folders, rlds_folder
from spatialvla.data.oxe.mixtures import MIXTURES
from spatialvla.data.oxe.names import rlds_spec
from spatialvla.data.oxe.specs import SPECS
from spatialvla.data.sources import open_source
from spatialvla.errors import InputError

BRIDGE = Path(__file__).parent / "rlds" / "bridge_orig"


def announce(folder, name):
    """A folder that is known as a dataset; its features and shards are not looked at."""
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"name": name}))
    return folder


def write_bc_z(folder, first):
    """One episode of three steps whose first motion is `first` along x."""
    residual = np.zeros((3, 30), np.float32)
    residual[:, 0] = first
    steps = {
        "action/future/xyz_residual": residual,
        "action/future/axis_angle_residual": np.zeros((3, 30), np.float32),
        "action/future/target_close": np.zeros((3, 10), np.int64),
        "observation/natural_language_instruction": np.array(["go"] * 3),
        "observation/present/xyz": np.zeros((3, 3), np.float32),
        "observation/present/axis_angle": np.zeros((3, 3), np.float32),
        "observation/present/sensed_close": np.zeros((3, 1), np.float32),
    }
    root = write_steps(folder, SPECS["bc_z"], steps)
    info = json.loads((root / "dataset_info.json").read_text())
    (root / "dataset_info.json").write_text(json.dumps(info | {"version": folder.name}))


@pytest.mark.parametrize("spec", [None, "bc_z", "bc_z/0.1.0"])
def test_of_several_versions_the_spec_s_is_read(tmp_path, spec):
    write_bc_z(tmp_path / "bc_z/0.1.0", 0.25)
    write_bc_z(tmp_path / "bc_z/1.0.0", 0.75)
    source = open_source(tmp_path / "bc_z", spec=spec, cache=tmp_path / "cache")
    assert source.key == "bc_z/0.1.0"
    assert source.episode(0).actions[0, 0] == 0.25
    # A version that is named is read, and doubted.
    newer = open_source(tmp_path / "bc_z/1.0.0", spec=spec, cache=tmp_path / "cache")
    assert newer.episode(0).actions[0, 0] == 0.75
    assert newer.doubts == ("The files are of version 1.0.0, and the spec of bc_z is of 0.1.0.",)
    assert source.doubts == ()


def test_several_versions_of_which_none_is_the_spec_s(tmp_path):
    for version in ("1.0.0", "1.0.1"):
        announce(tmp_path / "bc_z" / version, "bc_z")
        announce(tmp_path / "mine" / version, "mine")
    with pytest.raises(InputError, match=r"1\.0\.0, 1\.0\.1, of which none is 0\.1\.0, as the spec of bc_z"):
        rlds_folder(str(tmp_path / "bc_z"))
    with pytest.raises(InputError, match=r"mine has the versions 1\.0\.0, 1\.0\.1; name one of them"):
        rlds_folder(str(tmp_path / "mine"))
    assert rlds_folder(str(tmp_path / "mine"), rlds_spec("droid")) == str(tmp_path / "mine/1.0.0")


def test_versions_are_told_by_the_files_name_and_by_the_folder_s(tmp_path):
    for version in ("1.0.0", "1.0.1"):
        announce(tmp_path / "robots" / version, "r2d2_faceblur")
        announce(tmp_path / "droid" / version, "my_droid")
    assert rlds_folder(str(tmp_path / "robots")) == str(tmp_path / "robots/1.0.0")
    assert rlds_folder(str(tmp_path / "droid")) == str(tmp_path / "droid/1.0.0")


def test_a_dataset_whose_files_have_an_unknown_name_goes_by_its_folder_s(tmp_path):
    write_bc_z(tmp_path / "bc_z/0.1.0", 0.25)
    info = tmp_path / "bc_z/0.1.0/dataset_info.json"
    info.write_text(info.read_text().replace('"bc_z"', '"bc_z_resized"'))
    assert open_source(tmp_path / "bc_z", cache=tmp_path / "cache").key == "bc_z/0.1.0"
    (tmp_path / "bc_z").rename(tmp_path / "mine")
    with pytest.raises(InputError, match="no spec for the dataset 'bc_z_resized'; the closest are bc_z"):
        open_source(tmp_path / "mine", cache=tmp_path / "cache")


def test_a_mixture_s_datasets_are_found_under_any_of_their_names(tmp_path):
    announce(tmp_path / "kuka/0.1.0", "kuka")
    announce(tmp_path / "bridge_dataset/1.0.0", "bridge_dataset")
    announce(tmp_path / "libero_spatial/1.0.0", "libero_spatial")
    announce(tmp_path / "libero_spatial_no_noops/1.0.0", "libero_spatial")
    announce(tmp_path / "robots/1.0.0", "r2d2_faceblur")
    announce(tmp_path / "robots/1.0.1", "r2d2_faceblur")
    announce(tmp_path / "viola", "viola")  # no folder of its version
    (tmp_path / "else").mkdir()
    names = ("droid", "kuka", "bridge_orig", "libero_spatial_no_noops", "viola")
    expected = ("robots", "kuka", "bridge_dataset", "libero_spatial_no_noops", "viola")
    assert mixture_folders(names, str(tmp_path)) == tuple(str(tmp_path / name) for name in expected)


def test_all_datasets_that_a_mixture_lacks_are_named(tmp_path):
    announce(tmp_path / "kuka/0.1.0", "kuka")
    with pytest.raises(
        InputError, match=r"lacks 2 of the mixture's 3 datasets: droid, viola; put each into a folder"
    ):
        mixture_folders(("droid", "kuka", "viola"), str(tmp_path))
    with pytest.raises(InputError, match="absent lacks 1 of"):
        mixture_folders(("droid",), str(tmp_path / "absent"))
    with pytest.raises(InputError, match="cannot be listed"):
        mixture_folders(("droid",), "nosuchprotocol://x/y")


def test_mixtures_at_urls():
    memory = fsspec.filesystem("memory")
    for name in ("a/r2d2_faceblur/1.0.0", "a/kuka/0.1.0", "a/kuka/1.0.0"):
        memory.pipe(f"/{name}/dataset_info.json", b'{"name": "any"}')
    found = mixture_folders(("kuka", "droid"), "memory://a/")
    assert found == ("memory://a/kuka", "memory://a/r2d2_faceblur")
    assert rlds_folder(found[0], rlds_spec("kuka")) == "memory://a/kuka/0.1.0"


def test_no_name_stands_for_two_datasets():
    assert all(rlds_spec(name) is spec for name, spec in SPECS.items())
    assert all(name in SPECS for weights in MIXTURES.values() for name in weights)
