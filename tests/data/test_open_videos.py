"""Video files that stay open: the right frames from changed files, in threads and in forked processes."""

import errno
import multiprocessing
import shutil
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from spatialvla.data import open_videos
from spatialvla.data.frames import decode_frames
from spatialvla.data.open_videos import open_video
from spatialvla.errors import CheckpointError, InputError

LENGTH = 40


def write(path, seed):
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "8"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(LENGTH):
            pixels = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(autouse=True)
def nothing_open(monkeypatch):
    monkeypatch.setattr(open_videos._videos, "_idle", type(open_videos._videos._idle)())


@pytest.fixture
def opened(monkeypatch):
    """Paths in the order in which they are opened."""
    paths = []
    original = open_videos._videos._open

    def counting(path):
        paths.append(path)
        return original(path)

    monkeypatch.setattr(open_videos._videos, "_open", counting)
    return paths


def test_a_file_is_opened_once_and_again_when_it_has_changed(tmp_path, opened):
    path, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    first, second = write(path, 1), write(other, 2)
    for number in (30, 3, 17):
        np.testing.assert_array_equal(decode_frames(path, [number])[number], first[number])
    assert opened == [path]
    shutil.copy(other, tmp_path / "new.mp4")
    (tmp_path / "new.mp4").replace(path)
    np.testing.assert_array_equal(decode_frames(path, [5])[5], second[5])
    assert opened == [path, path]


def test_the_ones_read_last_stay_open(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(open_videos._videos, "most", 2)
    paths = [tmp_path / f"{seed}.mp4" for seed in range(3)]
    for seed, path in enumerate(paths):
        write(path, seed)
    for number in (0, 1, 0, 2, 0, 1):
        decode_frames(paths[number], [4])
    assert opened == [paths[number] for number in (0, 1, 2, 1)]


def test_what_failed_is_not_kept(tmp_path, opened):
    path = tmp_path / "a.mp4"
    write(path, 1)

    def fail():
        with open_video(path):
            raise av.FFmpegError(-5, "broken")

    with pytest.raises(CheckpointError, match=r"a\.mp4 is not a readable video"):
        fail()
    decode_frames(path, [3])
    assert len(opened) == 2


def test_too_many_open_files_are_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write(path, 1)
    with monkeypatch.context() as context:
        context.setattr(
            av, "open", lambda *given: (_ for _ in ()).throw(av.OSError(errno.EMFILE, "Too many"))
        )
        with pytest.raises(InputError, match=r"a\.mp4 cannot be opened .*ulimit"):
            decode_frames(path, [3])
    assert 3 in decode_frames(path, [3])
    with pytest.raises(CheckpointError, match=r"b\.mp4 is missing"):
        decode_frames(path / "b.mp4", [3])


def test_threads_have_a_file_each(tmp_path):
    path = tmp_path / "a.mp4"
    whole = write(path, 1)

    def one(number):
        return np.array_equal(decode_frames(path, [number])[number], whole[number])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, np.random.default_rng(0).integers(LENGTH, size=200).tolist()))


def _read_all(path, whole, answers):
    good = [np.array_equal(decode_frames(path, [n])[n], whole[n]) for n in (33, 2, 21, 9, 38) * 5]
    answers.put(all(good))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_does_not_move_its_parents_place(tmp_path):
    path = tmp_path / "a.mp4"
    whole = write(path, 1)
    decode_frames(path, [12])
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_read_all, args=(path, whole, answers))
    child.start()
    for number in (35, 1, 27, 14) * 10:
        np.testing.assert_array_equal(decode_frames(path, [number])[number], whole[number])
    assert answers.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
