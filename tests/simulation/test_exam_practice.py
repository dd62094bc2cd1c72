import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.simulation.libero.exam.layouts import MEANT, OTHER
from spatialvla.simulation.libero.exam.questions import QUESTIONS
from spatialvla.simulation.libero.recorder import LiberoRecorder
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.simulation.recording.demonstration import Demonstration
from spatialvla.simulation.recording.recorder import record_episodes


def _bowls(demonstration):
    """(2, 3) meters: where both stand at the start, the meant one first."""
    first = demonstration.states[0]  # time, 9 joints, and 7 numbers of each thing
    return np.stack([first[10:13], first[17:20]])


def _practice(tmp_path, task):
    config = RecordingConfig(
        tmp_path,
        suite="spatial_exam",
        tasks=(task,),
        episodes_per_task=2,
        workers=1,
        cameras="random",
        random_views=1,
        draw_every=40,
    )
    files = record_episodes(LiberoRecorder(image_size=32), config, tmp_path / f"task_{task}")
    return [Demonstration.load(file) for file in files]


@pytest.mark.sim
def test_the_exam_is_practiced_at_its_height_with_its_words_and_elsewhere_than_it_is_taken(tmp_path):
    pytest.importorskip("libero")
    lowered, raised = 2, 3  # by 10 cm
    assert QUESTIONS[raised].raised == 0.10
    demonstrations = _practice(tmp_path, raised)
    assert {one.instruction for one in demonstrations} == {QUESTIONS[raised].instruction}
    starts = [_bowls(one) for one in demonstrations]
    assert not np.allclose(starts[0], starts[1], atol=1e-4)
    for episode in range(4):
        taken = QUESTIONS[raised].places(0, episode)
        for start in starts:
            assert not np.allclose(start[:, :2], [taken[MEANT], taken[OTHER]], atol=1e-4)
    low = [_bowls(one) for one in _practice(tmp_path, lowered)]
    assert np.mean(starts, axis=(0, 1))[2] - np.mean(low, axis=(0, 1))[2] == pytest.approx(0.20, abs=0.01)


@pytest.mark.sim
def test_practice_that_was_interrupted_goes_on_with_the_same_cameras(tmp_path):
    pytest.importorskip("libero")
    first = _practice(tmp_path, 3)[1]
    (tmp_path / "task_3" / "task_03_episode_0001.npz").unlink()
    again = _practice(tmp_path, 3)[1]
    np.testing.assert_array_equal(first.states, again.states)
    np.testing.assert_array_equal(first.others["random_0"].extrinsics, again.others["random_0"].extrinsics)


def test_an_exam_of_no_seed_is_not_practiced():
    with pytest.raises(InputError, match="spatial_exam_7"):
        LiberoRecorder().task_names("spatial_exam_seven")
