"""A writer of weights that is killed leaves what the next one removes."""

import multiprocessing
import time

import pytest
import torch

from spatialvla.common.files import replacing, sweep
from spatialvla.model.weights import write_tensors


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_killed_export_leaves_no_large_file_for_good(tmp_path):
    folder, tensors = tmp_path / "out", {"a": torch.zeros(200_000_000 // 4)}
    writer = multiprocessing.get_context("fork").Process(target=write_tensors, args=(tensors, folder))
    writer.start()
    end = time.monotonic() + 60
    while not any(path.stat().st_size for path in folder.glob(".partial-*/*")):
        assert writer.is_alive()
        assert time.monotonic() < end
    writer.kill()
    writer.join()
    left = [name for name in files(folder) if name.startswith(".partial")]
    assert left, "it was killed while it wrote"
    # In shards this time, so that no file has the name of the one that was broken off.
    write_tensors({"a": torch.zeros(1000), "b": torch.ones(1000)}, folder, 4000)
    assert [name for name in files(folder) if name.endswith(".safetensors")] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert not [name for name in files(folder) if ".partial" in name or ".tmp" in name]


def test_only_what_is_asked_for_is_swept(tmp_path):
    for name in ("a.json", "below/b.safetensors", "c.safetensors", ".partial-7-c.json", ".hidden"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    (tmp_path / ".partial-7-c.safetensors").mkdir()
    (tmp_path / ".partial-7-c.safetensors" / ".tmp0aB").write_text("x")
    (tmp_path / "below" / ".partial-7-b.json").write_text("x")
    sweep(tmp_path, "*.safetensors")
    kept = [".hidden", ".partial-7-c.json", "a.json", "below/.partial-7-b.json"]
    assert files(tmp_path) == [*kept, "below/b.safetensors", "c.safetensors"]
    sweep(tmp_path, below=True)
    assert files(tmp_path) == [".hidden", "a.json", "below/b.safetensors", "c.safetensors"]


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_file_is_replaced_as_a_whole_or_stays(tmp_path, in_folder):
    path = tmp_path / "a"
    path.write_text("old")

    def break_off():
        with replacing(path, in_folder) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert (files(tmp_path), path.read_text()) == (["a"], "old")
    with replacing(path, in_folder) as partial:
        partial.write_text("new")
    assert (files(tmp_path), path.read_text()) == (["a"], "new")
