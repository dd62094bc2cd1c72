"""Rerun recordings of served episodes: what they hold, and that no robot waits for them."""

import logging
import threading

import numpy as np
import pytest
from fake_policy import CHUNK
from openpi_clients import client_of
from running import fake_service, plain, serving
from test_watching import DeepPolicy

pytest.importorskip("rerun")
from rrd import Rrd
from spatialvla.actions.units import LIBERO
from spatialvla.serving.recorder import ServedRecorder
from spatialvla.viz.rerun.background import Background
from spatialvla.viz.rerun.destination import Destination
from spatialvla.viz.rerun.recordings import Recordings
from spatialvla.viz.rerun.rig import Rig


def recordings(folder) -> Recordings:
    return Recordings(Destination(folder=folder), Rig({"image": None}, LIBERO), "tests")


def test_each_episode_of_a_client_becomes_a_file(tmp_path):
    recorder = ServedRecorder(recordings(tmp_path))
    with serving(fake_service(DeepPolicy(), watchers=[recorder])) as running:
        client = client_of(running)
        sent = [client.infer(plain(seed))["actions"] for seed in (1, 2)]
        client.infer(plain(3, reset=True))
    recorder.close()
    first, second = (Rrd(path) for path in sorted(tmp_path.iterdir()))
    assert first.path.name.endswith("Z_0001.rrd")
    translation = first.arrays("actions/translation", "Scalars:scalars")
    assert list(translation) == list(range(2 * CHUNK)), "steps are counted on over decisions"
    np.testing.assert_allclose(translation[CHUNK], 0.05 * sent[1][0][:3], rtol=1e-6)
    # The policy estimated one meter everywhere.
    depth = first.pictures("unplaced/image/camera/depth/estimated", "EncodedDepthImage")
    assert list(depth) == [0, CHUNK]
    assert (depth[0] == 1000).all()
    assert "task 1" in first.rows("episode", "TextDocument:text")[0][0]
    assert "Asked by 127.0.0.1." in first.text()
    assert first.property("steps") == 2 * CHUNK
    assert list(second.rows("actions/gripper", "Scalars:scalars")) == list(range(CHUNK))


def test_decisions_that_come_too_fast_are_left_out_and_nobody_waits(tmp_path, caplog):
    held = threading.Event()

    class Slow(Recordings):
        def open(self, name, *, decides=True):
            assert held.wait(10)
            return super().open(name, decides=decides)

    slow = Slow(Destination(folder=tmp_path), Rig({"image": None}, LIBERO), "tests")
    recorder = ServedRecorder(slow, most=2)
    with serving(fake_service(DeepPolicy(), watchers=[recorder])) as running:
        client = client_of(running)
        with caplog.at_level(logging.WARNING):
            for seed in range(8):
                client.infer(plain(seed))  # answered while the writer is held
        held.set()
        del client
    recorder.close()
    (path,) = tmp_path.iterdir()
    found = Rrd(path)
    written = len(found.rows("unplaced/image/camera/image", "EncodedImage:blob"))
    assert 2 <= written <= 3
    assert "decisions are missing in Rerun's recordings" in caplog.text
    told = found.rows("log", "TextLog:text")
    assert told == {written * CHUNK: [f"{8 - written} decisions are missing before this step."]}
    assert "`log` says what is missing where" in found.text()


def test_an_episode_that_falls_silent_is_made_complete(tmp_path):
    recorder = ServedRecorder(recordings(tmp_path), silence=0.0)
    recorder._background._seconds = 0.05
    with serving(fake_service(DeepPolicy(), watchers=[recorder])) as running:
        client = client_of(running)
        client.infer(plain(1))
        recorder._background.require(recorder._end_silent)
        client.infer(plain(2))
    recorder.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_call_that_fails_is_told_and_the_next_goes_on(caplog):
    done = []
    background = Background(most=4)
    background.offer(lambda: 1 / 0)
    background.offer(lambda: done.append(1))
    assert background.close()
    assert done == [1]
    assert "is left out" in caplog.text
    assert not background.offer(lambda: done.append(2)), "nothing is taken once it is closed"
