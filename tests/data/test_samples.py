import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.actions.grids import Bins
from spatialvla.data.in_memory import EpisodeSamples, IndexStream, write_array
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.errors import CheckpointError, InputError

LENGTHS = (5, 3, 7, 4, 6, 5, 3, 7)
CAMERA = np.array([[50, 0, 24], [0, 50, 16], [0, 0, 1]], np.float32)


def episode_arrays(length, seed):
    rng = np.random.default_rng(seed)
    return {
        "observation.images.front": rng.integers(0, 256, (length, 32, 48, 3), dtype=np.uint8),
        "observation.depth.front": rng.uniform(0.5, 2, (length, 32, 48)).astype(np.float32),
        "observation.intrinsics": np.repeat(CAMERA[None], length, 0),
        "observation.state": rng.standard_normal((length, 8)).astype(np.float32),
        "action": np.concatenate(
            [rng.normal(0, 0.3, (length, 6)), rng.integers(0, 2, (length, 1))], axis=1
        ).astype(np.float32),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "set"
    shapes = {
        "observation.intrinsics": (3, 3),
        "observation.state": (8,),
        "action": (7,),
    }
    features = [Feature(name, "float32", shape) for name, shape in shapes.items()]
    features.append(Feature("observation.images.front", "image", (32, 48, 3)))
    features.append(Feature("observation.depth.front", "depth", (32, 48)))
    writer = LeRobotWriter(root, fps=20, features=features)
    for index, length in enumerate(LENGTHS):
        writer.add_episode(episode_arrays(length, index), task=f"task {index % 2}")
    writer.finalize()
    return root


@pytest.fixture(scope="module")
def samples(root):
    return EpisodeSamples.open(root, chunk=4)


def test_a_sample_is_its_frame_and_what_came_next(samples):
    stored = episode_arrays(7, 2)
    sample = samples.sample(5 + 3 + 1)
    assert len(samples) == sum(LENGTHS)
    assert (sample.episode, sample.frame, sample.instruction) == (2, 1, "task 0")
    np.testing.assert_array_equal(sample.image, stored["observation.images.front"][1])
    np.testing.assert_allclose(sample.depth, stored["observation.depth.front"][1], atol=2e-3)
    np.testing.assert_array_equal(sample.intrinsics, CAMERA)
    np.testing.assert_array_equal(sample.actions, stored["action"][1:5].astype(np.float64))
    np.testing.assert_array_equal(samples.columns["observation.state"][9], stored["observation.state"][1])


def test_past_the_end_the_robot_stands_still_and_the_gripper_stays(samples):
    stored = episode_arrays(3, 1)["action"].astype(np.float64)
    chunk = samples.sample(5 + 2).actions
    np.testing.assert_array_equal(chunk[0], stored[2])
    np.testing.assert_array_equal(chunk[1:, :6], 0)
    np.testing.assert_array_equal(chunk[1:, 6], stored[2, 6])


def test_statistics_and_grid_describe_all_actions(samples):
    actions = np.concatenate([episode_arrays(n, i)["action"] for i, n in enumerate(LENGTHS)]).astype(
        np.float64
    )
    statistics = samples.statistics()
    np.testing.assert_array_equal(statistics.q01, np.quantile(actions, 0.01, axis=0))
    np.testing.assert_array_equal(statistics.q99, np.quantile(actions, 0.99, axis=0))
    assert statistics.mask.tolist() == [True] * 6 + [False]
    assert (statistics.num_trajectories, statistics.num_transitions) == (8, 40)
    grid = samples.fit_grid(Bins(theta=4, phi=4, r=4, roll=4, pitch=4, yaw=4))
    roll = statistics.normalize(actions)[:, 3]
    counts = np.histogram(roll, bins=grid.edges["roll"])[0]
    assert counts.min() >= 4


def test_frames_are_decoded_once(root, samples, monkeypatch):
    monkeypatch.setattr("spatialvla.data.lerobot.reader.StoredEpisode.frames", None)
    again = EpisodeSamples.open(root, chunk=4)
    np.testing.assert_array_equal(again.images, samples.images)
    assert isinstance(again.images, np.memmap)


def test_scaling_moves_the_camera_along(root, tmp_path):
    scaled = EpisodeSamples.open(root, chunk=4, size=16, cache=tmp_path)
    assert scaled.images.shape[1:] == (16, 16, 3)
    assert scaled.depth.shape[1:] == (16, 16)
    np.testing.assert_allclose(scaled.intrinsics[0], [[50 / 3, 0, 8], [0, 25, 8], [0, 0, 1]], rtol=1e-6)


def test_the_split_is_by_episode_and_even_over_instructions(samples):
    training, held_out = samples.split(0.25, seed=3)
    assert sorted([*training, *held_out]) == list(range(len(samples)))
    episodes = set(samples.episodes[held_out])
    assert not episodes & set(samples.episodes[training])
    assert len(episodes) == 2
    assert {samples.instructions[e] for e in episodes} == {"task 0", "task 1"}
    assert len(samples.split(0.0, seed=3)[1]) == 0
    with pytest.raises(InputError, match="held-out"):
        samples.split(1.0, seed=0)


@given(count=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 5))
def test_every_epoch_shows_each_sample_once(count, batch, seed):
    indices = np.arange(100, 100 + count)
    stream = IndexStream(indices, batch, seed)
    steps = -(-3 * count // batch)
    drawn = np.concatenate([stream.batch(step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == indices.tolist()
    np.testing.assert_array_equal(IndexStream(indices, batch, seed).batch(steps - 1), drawn[-batch:])


def test_epochs_and_seeds_differ():
    stream = IndexStream(np.arange(50), 50, seed=0)
    assert (stream.batch(0) != stream.batch(1)).any()
    assert (stream.batch(0) != IndexStream(np.arange(50), 50, seed=1).batch(0)).any()
    with pytest.raises(InputError, match="0 samples"):
        IndexStream(np.array([], int), 4, seed=0)


def test_wrong_cameras_and_actions_are_named(root, tmp_path):
    with pytest.raises(InputError, match=r"observation\.images\.front"):
        EpisodeSamples.open(root, chunk=4, camera="observation.images.wrist")
    writer = LeRobotWriter(
        tmp_path / "bad",
        fps=20,
        features=[Feature("observation.images.a", "image", (8, 8, 3)), Feature("action", "float32", (6,))],
    )
    frames = {
        "observation.images.a": np.zeros((2, 8, 8, 3), np.uint8),
        "action": np.zeros((2, 6), np.float32),
    }
    writer.add_episode(frames, task="go")
    writer.finalize()
    with pytest.raises(InputError, match="7 numbers"):
        EpisodeSamples.open(tmp_path / "bad", chunk=4)


def test_a_broken_off_array_leaves_nothing_behind(tmp_path):
    def blocks():
        yield np.zeros((2, 3))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_array(tmp_path / "a.npy", (4, 3), np.dtype(np.float32), blocks())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="free"):
        write_array(tmp_path / "a.npy", (10**9, 10**6), np.dtype(np.float32), blocks())
