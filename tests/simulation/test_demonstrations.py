import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from time import sleep

import numpy as np
import pytest

from spatialvla.actions.published_units import published_units
from spatialvla.data.episodes import planned_steps
from spatialvla.data.lerobot import LeRobotDataset, LeRobotWriter, assembly
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.errors import InputError
from spatialvla.simulation.libero.recorder import PANDA
from spatialvla.simulation.recorders import record_demonstrations
from spatialvla.simulation.recording import recorder
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.simulation.recording.dataset import store
from spatialvla.simulation.recording.demonstration import Demonstration, RecordedView
from spatialvla.simulation.widowx.recorder import WidowXRecorder


def _episode(seed: int, steps: int) -> Demonstration:
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:32, :32]
    images = np.stack([np.stack([row * 4, column * 4, row * 0 + 3 * t], -1) for t in range(steps)])
    return Demonstration(
        images=images.astype(np.uint8),
        depth=rng.uniform(0.5, 2, (steps, 32, 32)).astype(np.float16),
        drawn=np.arange(steps),
        actions=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        proprioception=rng.normal(size=(steps, 8)).astype(np.float32),
        states=rng.normal(size=(steps, 20)),
        takeover=(np.arange(steps) == 4).astype(np.float32),
        intrinsics=np.array([[38.6, 0, 16], [0, 38.6, 16], [0, 0, 1]], np.float32),
        camera_pose=np.eye(4, dtype=np.float32),
        extrinsics=np.diag([-1, 1, 1, 1]).astype(np.float32),
        instruction=f"pick up bowl {seed}",
    )


def _saved(folder: Path, lengths: list[int]) -> list[Path]:
    files = [folder / f"episode_{k}.npz" for k in range(len(lengths))]
    for k, (file, length) in enumerate(zip(files, lengths, strict=True)):
        _episode(k, length).save(file)
    return files


def test_an_episode_survives_its_file(tmp_path):
    episode = _episode(1, 5)
    episode.save(tmp_path / "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    loaded = Demonstration.load(tmp_path / "a.npz")
    for name, value in vars(episode).items():
        np.testing.assert_array_equal(getattr(loaded, name), value)


def _seen_by_more(seed: int, steps: int, cameras: list[str]) -> Demonstration:
    alone, rng = _episode(seed, steps), np.random.default_rng([seed, 1])
    others = {}
    for number, camera in enumerate(cameras):
        poses = np.tile(np.eye(4, dtype=np.float32), (steps, 1, 1))
        poses[:, 0, 3] = 0.1 * number + 0.01 * np.arange(steps)
        others[camera] = RecordedView(
            np.roll(alone.images, number + 1, axis=1),
            rng.uniform(0.5, 2, (steps, 32, 32)).astype(np.float16),
            np.array([[30 + number, 0, 16], [0, 30 + number, 16], [0, 0, 1]], np.float32),
            poses,
        )
    return replace(alone, others=others)


def test_further_cameras_survive_a_file_and_come_back_from_the_dataset(tmp_path):
    cameras = ["random_0", "random_1", "wrist"]
    files = [tmp_path / f"{number}.npz" for number in range(2)]
    for number, file in enumerate(files):
        _seen_by_more(number, 6, cameras).save(file)
    original = Demonstration.load(files[1])
    assert list(original.others) == cameras
    store(files, tmp_path / "dataset", PANDA, depth_video=DepthQuantization.of("log", (0.01, 10.0)))
    for camera in cameras:
        view = original.others[camera]
        mapping = FeatureMapping(
            image=f"observation.images.{camera}",
            intrinsics=f"observation.intrinsics.{camera}",
            extrinsics=f"observation.extrinsics.{camera}",
        )
        episode = LeRobotSource(tmp_path / "dataset", mapping).episode(1)
        np.testing.assert_allclose(episode.extrinsics, view.extrinsics, atol=1e-6)
        np.testing.assert_array_equal(episode.camera.intrinsics, view.intrinsics)
        assert np.abs(episode.images(range(6)).astype(int) - view.images).mean() < 6
        np.testing.assert_allclose(episode.depth(range(6)), view.depth, atol=2e-3)


def test_episodes_seen_by_other_cameras_are_not_mixed(tmp_path):
    files = [tmp_path / f"{number}.npz" for number in range(2)]
    _episode(0, 5).save(files[0])
    _seen_by_more(1, 5, ["wrist"]).save(files[1])
    with pytest.raises(InputError, match=r"1\.npz was seen by agentview, wrist and .*0\.npz by agentview;"):
        store(files, tmp_path / "dataset", PANDA)


def _drawn_at(demonstration: Demonstration, drawn: list[int]) -> Demonstration:
    others = {
        name: replace(
            view, images=view.images[drawn], depth=view.depth[drawn], extrinsics=view.extrinsics[drawn]
        )
        for name, view in demonstration.others.items()
    }
    return replace(
        demonstration,
        images=demonstration.images[drawn],
        depth=demonstration.depth[drawn],
        drawn=np.array(drawn),
        others=others,
    )


def _moving(images: np.ndarray) -> np.ndarray:
    return np.stack([np.roll(image, 3 * step, axis=1) for step, image in enumerate(images)])


def _closest(seen: np.ndarray, images: np.ndarray) -> list[int]:
    """Which of the images each one seen is."""
    off = np.abs(seen[:, None].astype(int) - images[None]).mean((2, 3, 4))
    return [int(number) for number in off.argmin(1)]


def test_samples_start_only_where_a_step_was_drawn_and_have_all_actions(tmp_path):
    still = _seen_by_more(1, 9, ["wrist"])
    wrist = still.others["wrist"]
    whole = replace(
        still,
        images=_moving(still.images),
        others={"wrist": replace(wrist, images=_moving(wrist.images))},
    )
    files = [tmp_path / f"{number}.npz" for number in range(2)]
    for file, drawn in zip(files, ([0, 3, 6], [0, 4, 5]), strict=True):
        _drawn_at(whole, drawn).save(file)
    store(files, tmp_path / "dataset", PANDA)
    source = LeRobotSource(
        tmp_path / "dataset", FeatureMapping(image="observation.images.agentview"), cameras=["wrist"]
    )
    for index, drawn in enumerate(([0, 3, 6], [0, 4, 5])):
        episode = source.episode(index)
        np.testing.assert_array_equal(episode.starts, drawn)
        np.testing.assert_array_equal(episode.actions, whole.actions)
        wrist = episode.other_views["wrist"]
        for seen, view in ((episode, whole), (wrist, whole.others["wrist"])):
            assert _closest(seen.images(drawn), view.images) == drawn
            np.testing.assert_allclose(seen.depth(drawn), view.depth[drawn], atol=6e-4)
        np.testing.assert_allclose(
            wrist.extrinsics[drawn], whole.others["wrist"].extrinsics[drawn], atol=1e-6
        )
        assert _closest(episode.images([2]), whole.images) == [0]  # the one before it


def test_a_dataset_that_is_drawn_throughout_tells_of_no_absence_and_takes_no_other_episodes(tmp_path):
    files = _saved(tmp_path, [5, 5])
    store(files, tmp_path / "dataset", PANDA)
    features = LeRobotDataset(tmp_path / "dataset").features
    assert not [name for name in features if name.startswith("observation.present")]
    _drawn_at(_episode(1, 5), [0, 2, 4]).save(files[1])
    with pytest.raises(InputError, match=r"episode_1\.npz was not drawn at each step, and .*_0\.npz was;"):
        store(files, tmp_path / "mixed", PANDA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draw_every": 0}, "Every 0 steps cannot be drawn"),
        ({"episodes_per_task": 0}, "episodes_per_task must be at least 1, not 0"),
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
    ],
)
def test_numbers_that_record_nothing_are_refused(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        RecordingConfig(tmp_path, **options)


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(InputError, match=r"a\.npz is no demonstration"):
        Demonstration.load(tmp_path / "a.npz")


@pytest.mark.parametrize("depth", [True, False])
def test_stored_episodes_come_back_from_the_dataset(tmp_path, depth):
    files = _saved(tmp_path / "raw", [6, 9])
    store(files, tmp_path / "dataset", PANDA, depth)
    dataset = LeRobotDataset(tmp_path / "dataset")
    assert dataset.fps == 20
    assert [len(episode) for episode in dataset] == [6, 9]
    original, read = Demonstration.load(files[1]), dataset.episode(1)
    assert read.instruction == original.instruction
    np.testing.assert_array_equal(read.columns["action"], original.actions)
    np.testing.assert_array_equal(read.columns["observation.state"], original.proprioception)
    np.testing.assert_array_equal(read.columns["observation.intrinsics"][3], original.intrinsics)
    placed = LeRobotSource(tmp_path / "dataset").episode(1).extrinsics
    np.testing.assert_array_equal(placed, np.tile(original.extrinsics, (9, 1, 1)))
    # Frame 4 of each episode was driven.
    episodes = [LeRobotSource(tmp_path / "dataset").episode(index) for index in (0, 1)]
    planned = [planned_steps(episode, episode.starts, 3).tolist() for episode in episodes]
    assert planned == [[3, 3, 3, 2, 1, 3], [3, 3, 3, 2, 1, 3, 3, 3, 3]]
    images = read.frames("observation.images.agentview")
    assert np.abs(images.astype(int) - original.images).mean() < 6  # video is lossy
    assert ("observation.depth.agentview" in read.cameras) == depth
    if depth:
        np.testing.assert_allclose(read.frames("observation.depth.agentview"), original.depth, atol=6e-4)


def test_depth_is_stored_as_video_where_asked_for(tmp_path):
    files = _saved(tmp_path / "raw", [6])
    depth = Demonstration.load(files[0]).depth.astype(np.float32)
    linear = DepthQuantization.of("linear", (float(depth.min()) - 0.1, float(depth.max()) + 0.1))
    store(files, tmp_path / "dataset", PANDA, depth_video=linear)
    dataset = LeRobotDataset(tmp_path / "dataset")
    assert dataset.features["observation.depth.agentview"].dtype == "depth_video"
    read = dataset.episode(0).frames("observation.depth.agentview")
    assert np.abs(read - depth).max() <= (linear.depth_max - linear.depth_min) / 4095


def test_a_range_that_cannot_be_is_refused_before_recording(tmp_path):
    config = RecordingConfig(tmp_path / "dataset", depth_video="log", depth_range=(300.0, 2000.0))
    with pytest.raises(InputError, match="are meters, not millimeters"):
        record_demonstrations(config)
    assert not list(tmp_path.iterdir())


def test_an_existing_dataset_is_refused_before_recording(tmp_path):
    store(_saved(tmp_path / "raw", [4]), tmp_path / "dataset", PANDA)
    with pytest.raises(InputError, match="already holds a dataset"):
        record_demonstrations(RecordingConfig(tmp_path / "dataset", episodes_per_task=1))


@pytest.mark.parametrize("more", [{"cameras": "random"}, {"wrist": True}])
def test_further_cameras_are_refused_where_a_photograph_is_the_background(tmp_path, more):
    config = RecordingConfig(tmp_path / "dataset", suite="simpler_widowx", **more)
    with pytest.raises(InputError, match="simpler_widowx has one camera"):
        record_demonstrations(config)
    assert not list(tmp_path.iterdir())


def test_widowx_demonstrations_say_their_robot_rate_and_units(tmp_path):
    embodiment = WidowXRecorder().embodiment
    store(_saved(tmp_path / "raw", [5]), tmp_path / "dataset", embodiment)
    dataset, source = LeRobotDataset(tmp_path / "dataset"), LeRobotSource(tmp_path / "dataset")
    assert dataset.fps == 5
    assert source.units == published_units("bridge_orig")
    assert "observation.images.3rd_view_camera" in dataset.features


@dataclass
class Failing:
    """A simulator in which nothing succeeds but one attempt at each episode, the fourth unless told otherwise."""

    succeeds: int = 3
    embodiment = PANDA

    def check(self, config):
        pass

    def task_names(self, suite):
        return ["lift", "push"]

    @contextmanager
    def playing(self, config, task):
        logging.getLogger("robosuite_logs").warning("No private macro file found!")
        yield lambda seed: _episode(sum(seed), 4) if seed[-1] == self.succeeds else None


def test_episodes_are_tried_from_several_starts_and_a_killed_recording_goes_on(tmp_path, capfd):
    config = RecordingConfig(tmp_path / "out", episodes_per_task=2, workers=1, seed=5)
    recorder._record_task(Failing(), config, 1, [(0, tmp_path / "task_01_episode_0000.npz")])
    kept = (tmp_path / "task_01_episode_0000.npz").stat().st_mtime_ns
    told = []
    files = recorder.record_episodes(Failing(), config, tmp_path, lambda *numbers: told.append(numbers))
    assert told[-1] == (4, 4)
    assert "macro" not in capfd.readouterr().err
    assert [file.name for file in files] == [f"task_0{t}_episode_000{k}.npz" for t in (0, 1) for k in (0, 1)]
    assert files[2].stat().st_mtime_ns == kept
    assert Demonstration.load(files[3]).instruction == f"pick up bowl {5 + 1 + 1 + 3}"
    with pytest.raises(InputError, match="has the tasks 0 to 1, not 2"):
        recorder.record_episodes(Failing(), replace(config, tasks=(2,)), tmp_path)


@dataclass
class FailingInOneTask(Failing):
    """Its first task fails once the other has an episode, whose attempts take a while."""

    @contextmanager
    def playing(self, config, task):
        def play(seed):
            sleep(0.3)
            return _episode(1, 4)

        def fail(seed):
            while not list(config.out.parent.glob("task_01*.npz")):
                sleep(0.1)

        yield play if task else fail


def test_an_error_in_one_task_ends_the_others(tmp_path):
    """And what they have recorded stays."""
    config = RecordingConfig(tmp_path / "out", episodes_per_task=1000, workers=2)
    with pytest.raises(InputError, match="The expert failed 20 times at lift"):
        recorder.record_episodes(FailingInOneTask(), config, tmp_path)
    assert 0 < len(list(tmp_path.glob("task_01*.npz"))) < 100


def test_a_task_next_in_line_loads_no_simulator_once_one_has_failed(tmp_path, monkeypatch):
    loaded = []

    class Loading(Failing):
        def playing(self, config, task):
            loaded.append(task)
            return super().playing(config, task)

    config, stopping = RecordingConfig(tmp_path / "out"), Event()
    monkeypatch.setattr(recorder, "_stopping", stopping)
    recorder._record_task(Loading(), config, 0, [(0, tmp_path / "task_00_episode_0000.npz")])
    stopping.set()
    recorder._record_task(Loading(), config, 1, [(0, tmp_path / "task_01_episode_0000.npz")])
    assert loaded == [0]


def test_hundreds_of_episodes_do_not_end_at_an_unlucky_one(tmp_path):
    """Hard tasks fail in every fourth start; with a weak policy at the wheel, in every second."""
    config, files = RecordingConfig(tmp_path / "out"), [(0, tmp_path / "task_01_episode_0000.npz")]
    recorder._record_task(Failing(succeeds=19), config, 1, files)
    with pytest.raises(InputError, match="The expert failed 20 times at push; change the seed"):
        recorder._record_task(Failing(succeeds=20), config, 1, files)


def test_a_folder_of_episodes_takes_no_other_recordings(tmp_path, caplog):
    config = RecordingConfig(tmp_path / "out", suite="made", episodes_per_task=1, workers=1)
    recorder.record_episodes(Failing(), config, tmp_path)
    for options, message in (
        ({"suite": "other"}, "suite: made, not other"),
        ({"wrist": True}, r"cameras: \[\], not \['wrist'\]"),
        ({"draw_every": 6}, "draw_every: 1, not 6"),
    ):
        with pytest.raises(InputError, match=f"holds episodes of another recording .*{message}"):
            recorder.record_episodes(Failing(), replace(config, **options), tmp_path)
    # More episodes may follow by another seed, as the advice for an unlucky one is, and by a policy.
    recorder.record_episodes(Failing(), replace(config, episodes_per_task=2, seed=7), tmp_path)
    assert "has episodes of seed 0; what is missing gets seed 7" in caplog.text
    assert len(list(tmp_path.glob("*.npz"))) == 4


def test_storing_that_goes_on_with_more_episodes_stores_each_once(tmp_path, monkeypatch):
    folder, add, calls = tmp_path / "out.episodes", LeRobotWriter.add_episode, []
    for task in (0, 1):
        for k in range(3):
            _episode(10 * task + k, 4).save(folder / f"task_0{task}_episode_000{k}.npz")

    def fragile(writer, *given):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(add(writer, *given))

    config = RecordingConfig(tmp_path / "out", episodes_per_task=2)
    with monkeypatch.context() as patch:
        patch.setattr(LeRobotWriter, "add_episode", fragile)
        with pytest.raises(KeyboardInterrupt):
            recorder.record(Failing(), config)
    with pytest.raises(InputError, match=r"begun with the episode task_01_episode_0000.*leaves out"):
        recorder.record(Failing(), replace(config, tasks=(0,)))
    recorder.record(Failing(), replace(config, episodes_per_task=3))
    told = [episode.instruction for episode in LeRobotDataset(config.out)]
    assert told == [f"pick up bowl {number}" for number in (0, 1, 10, 2, 11, 12)]
    assert not list(config.out.glob(".*"))


def test_a_recording_that_was_killed_while_it_was_stored_goes_on(tmp_path, monkeypatch):
    config = RecordingConfig(tmp_path / "out", episodes_per_task=1)
    for task in (0, 1):
        _episode(task, 4).save(tmp_path / "out.episodes" / f"task_0{task}_episode_0000.npz")
    with monkeypatch.context() as patch:
        patch.setattr(assembly, "write_info", _killed)
        with pytest.raises(KeyboardInterrupt):
            recorder.record(Failing(), config)
    assert (config.out / "meta").is_dir()
    recorder.record(Failing(), config)
    assert len(LeRobotDataset(config.out)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _killed(*_):
    raise KeyboardInterrupt


@pytest.mark.sim
def test_episode_k_does_not_depend_on_how_many_are_recorded(tmp_path):
    pytest.importorskip("libero")
    from spatialvla.simulation.libero.demonstration import demonstrate
    from spatialvla.simulation.libero.env import LiberoEnv
    from spatialvla.simulation.libero.expert import LiberoExpert
    from spatialvla.simulation.libero.tasks import tasks

    env = LiberoEnv(tasks("libero_spatial")[2], image_size=32)
    expert = LiberoExpert(env)
    first = demonstrate(env, expert, np.random.default_rng([0, 2, 0]), draw_every=0)
    demonstrate(env, expert, np.random.default_rng([0, 2, 1]), draw_every=0)
    again = demonstrate(env, expert, np.random.default_rng([0, 2, 0]), draw_every=0)
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first.states, again.states)
    np.testing.assert_array_equal(first.actions, again.actions)
