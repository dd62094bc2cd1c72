"""RH20T in its published layout, and pickles that try to do more than hold numbers."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import rh20t_writer as make
from rh20t_writer import FRONT, START, WRIST

from spatialvla.data.rh20t import RH20TSource, calibration, recording
from spatialvla.data.rh20t.dictionaries import read_dictionary
from spatialvla.errors import CheckpointError, InputError

TIMES = START + np.arange(21) * 100
WIDTHS = np.where(np.arange(21) < 8, 95.0, 19.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two robots' folders: a video, extracted images, a person, a failure, one that broke off."""
    root = tmp_path_factory.mktemp("rh20t")
    make.write_descriptions(root, task_0001="Press the button ", task_0002="Pick up the block")
    one, five = root / "RH20T_cfg1", root / "RH20T_cfg5"
    make.write_calibration(one)
    make.write_scene(one / make.scene(1, 1), TIMES, WIDTHS)
    make.write_scene(one / make.scene(2, 1), TIMES[:9], jpegs=True, calib=-1)
    make.write_scene(one / make.scene(1, 2), TIMES, rating=1)
    make.write_scene(one / make.scene(1, 1, human=True), TIMES)
    (one / make.scene(1, 3)).mkdir()
    make.write_scene(five / make.scene(3, 1, 5), TIMES, np.full(21, 40.0), serials=("104122061850",))
    return root


def test_the_robots_finished_scenes_are_the_episodes(root):
    source = RH20TSource(root)
    assert (len(source), source.key, source.control_hz) == (3, "rh20t", 10.0)
    assert [source.episode(i).instruction for i in range(3)] == ["Press the button", "Pick up the block", ""]
    assert len(source.left_out) == 2
    assert "rating of 1 says that it failed" in source.left_out[0]
    assert "metadata.json does not exist" in source.left_out[1]
    # One robot's folder alone; the descriptions lie around it.
    assert len(RH20TSource(root / "RH20T_cfg1")) == 2


def test_motion_is_the_tools_in_the_base(root):
    episode = RH20TSource(root).episode(0)
    assert episode.actions.shape == (20, 7)
    np.testing.assert_allclose(episode.actions[:, :6], np.tile([0.01, 0, 0, 0, 0, 0.02], (20, 1)), atol=1e-9)
    np.testing.assert_allclose(episode.actions[:, 6], np.where(np.arange(20) < 8, 1.0, 0.2))
    assert episode.starts.tolist() == list(range(20))
    images = episode.images([13, 0, 7])
    assert images.shape == (3, 36, 64, 3)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), [65, 0, 35], atol=2)
    assert episode.depth([0]) is None


def test_cameras_follow_the_calibration(root):
    source = RH20TSource(root)
    camera = source.episode(0).camera
    np.testing.assert_allclose(camera.scaled_to(360, 640), [[450, 0, 320], [0, 450, 180], [0, 0, 1]])
    assert source.episode(1).camera is None, "it was never calibrated"
    assert source.episode(2).camera is None, "there is no calibration of this robot"


def test_extracted_images_and_other_grippers(root):
    source = RH20TSource(root)
    episode = source.episode(1)
    assert len(episode) == 8
    np.testing.assert_allclose(episode.images([5, 2]).mean(axis=(1, 2, 3)), [25, 10], atol=2)
    np.testing.assert_allclose(source.episode(2).actions[:, 6], 0.5)  # 40 of 80 mm


def test_another_rate_and_frames_that_are_missing(tmp_path):
    times = np.delete(TIMES, [10, 11, 12, 13, 14])
    make.write_descriptions(tmp_path)
    make.write_scene(tmp_path / make.scene(1, 1), times, finish=int(TIMES[18]))
    episode = RH20TSource(tmp_path, control_hz=5).episode(0)
    np.testing.assert_allclose(episode.actions[:, :6], np.tile([0.02, 0, 0, 0, 0, 0.04], (9, 1)), atol=1e-9)
    # At 1.0 s the closest image is 0.1 s old; at 1.2 s it is 0.3 s away.
    assert episode.starts.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]


def test_a_source_crosses_to_other_processes(root):
    source = RH20TSource(root)
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint == source.fingerprint != RH20TSource(root, 5).fingerprint
    assert again.contents == source.contents != RH20TSource(root, 5).contents
    np.testing.assert_array_equal(again.episode(0).actions, source.episode(0).actions)
    assert source.episode(0) is source.episode(0), "it is not read for each sample anew"


def unreadable(path):
    raise AssertionError(f"{path} is read again")


def test_what_was_read_once_is_kept(root, tmp_path, monkeypatch):
    cache = tmp_path / "kept"
    first = [RH20TSource(root, cache=cache).episode(index) for index in range(3)]
    assert len(list(cache.iterdir())) == 3
    for module in (recording, calibration):
        monkeypatch.setattr(module, "read_dictionary", unreadable)
    again = RH20TSource(root, cache=cache)
    for index, before in enumerate(first):
        after = again.episode(index)
        for name in ("actions", "starts", "state"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
        assert list(after.other_views) == list(before.other_views)
        for view, other in zip(after.other_views.values(), before.other_views.values(), strict=True):
            np.testing.assert_array_equal(view.images([5]), other.images([5]))
            assert (view.camera is None) == (other.camera is None)
        np.testing.assert_array_equal(after.images([5]), before.images([5]))
        assert after.instruction == before.instruction
        assert (after.camera is None) == (before.camera is None)
    np.testing.assert_array_equal(again.episode(0).camera.intrinsics, first[0].camera.intrinsics)
    with pytest.raises(AssertionError, match="is read again"):
        RH20TSource(root, control_hz=5, cache=cache).episode(0)


@pytest.mark.parametrize("changed", ["metadata", "calibration", "pose", "damage"])
def test_what_was_kept_is_read_again_where_something_changed(tmp_path, changed):
    make.write_descriptions(tmp_path)
    make.write_calibration(tmp_path)
    folder = make.write_scene(tmp_path / make.scene(1, 1), TIMES)
    source = RH20TSource(tmp_path, cache=tmp_path / "kept")
    before, fingerprint = source.episode(0), source.fingerprint
    if changed == "metadata":
        path = folder / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"finish_time": int(TIMES[10])}))
    elif changed == "calibration":
        wider = make.K * [[2, 1, 1, 1]]
        make.pickled(next(tmp_path.glob("calib/*/intrinsics.npy")), {FRONT: wider, WRIST: wider, "1": wider})
    elif changed == "pose":
        tcp = [{"timestamp": int(time), "tcp": make.pose(START)} for time in TIMES]
        make.pickled(folder / "transformed" / "tcp_base.npy", {FRONT: tcp})
    else:
        (kept,) = (tmp_path / "kept").iterdir()
        data = bytearray(kept.read_bytes())
        data[len(data) // 2] ^= 1
        kept.write_bytes(data)
    other = RH20TSource(tmp_path, cache=tmp_path / "kept")
    after = other.episode(0)
    assert len(after) == (10 if changed == "metadata" else 20)
    assert (
        after.camera.intrinsics[0, 0]
        == (2 if changed == "calibration" else 1) * before.camera.intrinsics[0, 0]
    )
    assert (after.actions[:, :6] == 0).all() == (changed == "pose")
    assert (other.fingerprint == fingerprint) == (changed == "damage")


def test_the_front_camera_is_taken_and_never_the_hands(root, tmp_path):
    make.write_descriptions(tmp_path)
    make.write_scene(tmp_path / make.scene(1, 1), TIMES, serials=(WRIST, "038522063145"))
    assert "038522063145" in str(RH20TSource(tmp_path).episode(0).view.numbers.images.folder)
    assert FRONT in str(RH20TSource(root).episode(0).view.numbers.images.folder)
    make.write_scene(tmp_path / make.scene(1, 2), TIMES, serials=(WRIST,))
    with pytest.raises(CheckpointError, match="has no fixed camera"):
        RH20TSource(tmp_path).episode(1)


def broken(tmp_path, damage):
    make.write_descriptions(tmp_path)
    folder = make.write_scene(tmp_path / make.scene(1, 1), TIMES)
    damage(folder)
    episode = RH20TSource(tmp_path).episode(0)
    return episode.images([20 - 1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "transformed/tcp_base.npy").unlink(), r"tcp_base\.npy is missing"),
        (lambda f: (f / "transformed/gripper.npy").write_bytes(b"\x93NUMPY"), r"gripper\.npy cannot be read"),
        (
            lambda f: make.pickled(f / "transformed/tcp_base.npy", {FRONT: [{"tcp": 1}]}),
            "is not as published",
        ),
        (lambda f: make.pickled(f / "transformed/gripper.npy", {FRONT: {}}), "has no gripper"),
        (lambda f: make.pickled(f / "transformed/gripper.npy", {"1": {}}), f"has no camera {FRONT}, only 1"),
        (lambda f: make.write_video(f / f"cam_{FRONT}/color.mp4", 5), r"color\.mp4 ends before frame 19"),
        (lambda f: (f / f"cam_{FRONT}/color.mp4").write_bytes(b"no video"), "is not a readable video"),
        (lambda f: make.pickled(f / f"cam_{FRONT}/timestamps.npy", {"color": []}), "has no color images"),
    ],
)
def test_damaged_scenes_are_errors_that_name_the_file(tmp_path, damage, message):
    with pytest.raises(CheckpointError, match=message):
        broken(tmp_path, damage)


def test_folders_without_scenes_or_descriptions(tmp_path):
    (tmp_path / "a").mkdir()
    make.write_scene(tmp_path / "a" / make.scene(1, 1), TIMES)
    with pytest.raises(CheckpointError, match=r"task_description\.json is missing"):
        RH20TSource(tmp_path / "a")
    make.write_descriptions(tmp_path / "a")
    with pytest.raises(InputError, match="episodes 0 to 0, not 1"):
        RH20TSource(tmp_path / "a").episode(1)
    metadata = tmp_path / "a" / make.scene(1, 1) / "metadata.json"
    metadata.write_text(json.dumps({"rating": 0}))
    with pytest.raises(InputError, match=r"has no finished scene of a robot.*rating of 0"):
        RH20TSource(tmp_path / "a")


CONTENT = {
    "a": [1, 2.5, "x", None, True, b"raw", np.float64(3.5), np.int64(-7)],
    5: {"deep": (np.arange(6).reshape(2, 3), np.array([1.5, -2.0], ">f4"), np.array(["ab", "c"]))},
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "objects": np.array([1, "two", None], dtype=object),
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_dictionaries_come_back(tmp_path, protocol):
    path = tmp_path / "a.npy"
    write_pickle(path, pickle.dumps(np.array(CONTENT, dtype=object), protocol))
    found = read_dictionary(path)
    assert found.keys() == CONTENT.keys()
    assert found["a"] == CONTENT["a"]
    for mine, original in zip(found[5]["deep"], CONTENT[5]["deep"], strict=True):
        np.testing.assert_array_equal(mine, original)
        assert mine.dtype == original.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found["fortran"], CONTENT["fortran"])
    assert found["empty"].shape == (0, 3)
    assert found["objects"] == [1, "two", None]


def write_pickle(path, data):
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(data)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_cannot_call_anything(tmp_path):
    target = tmp_path / "touched"
    write_pickle(tmp_path / "a.npy", pickle.dumps(Calls(Path.touch, target)))
    with pytest.raises(CheckpointError, match=r"a\.npy cannot be read \(it names .*, which is not allowed\)"):
        read_dictionary(tmp_path / "a.npy")
    assert not target.exists()


@pytest.mark.parametrize("data", [b"", pickle.dumps(5), pickle.dumps({"x": {1, 2}}), pickle.dumps([{}])[:3]])
def test_pickles_of_something_else_are_errors(tmp_path, data):
    write_pickle(tmp_path / "a.npy", data)
    with pytest.raises(CheckpointError, match=r"a\.npy (cannot be read|holds no dictionary)"):
        read_dictionary(tmp_path / "a.npy")


def test_arrays_of_numbers_and_missing_files_are_errors(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(CheckpointError, match="holds an array of int64, no dictionary"):
        read_dictionary(tmp_path / "a.npy")
    with pytest.raises(CheckpointError, match=r"absent\.npy is missing"):
        read_dictionary(tmp_path / "absent.npy")
