"""A run's batches: options mean the same whether or not its datasets are held in memory."""

import pickle
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tiny_policy import write_dataset
from told_dataset import COLORS, FRONT_POSE, GRAY, SIZE, WRIST_POSE, K, write_told

from spatialvla.data.every_view import views_of
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.errors import CheckpointError, InputError
from spatialvla.training.config import DatasetConfig
from spatialvla.training.feed.datasets import open_dataset, open_mixture
from spatialvla.training.feed.rank_batches import Feed
from spatialvla.training.loop import train
from spatialvla.training.parallel.world import World
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.build import build, network_config

BRIDGE = Path(__file__).parents[1] / "data" / "rlds" / "bridge_orig"
DEPTH_VIDEO = BRIDGE.parents[1] / "lerobot_v3_depth"
BOTH = pytest.mark.parametrize("in_memory", [False, True])


def fed(config):
    """The run's mixture and feed."""
    progress = Progress(config, None)
    mixture = open_mixture(config, network_config(config), World(), progress)
    model, processor = build(config, mixture)
    return mixture, Feed(config, mixture, model, processor, World(), progress)


def batches(config, count=3):
    return list(islice(fed(config)[1].training(0), count))


def test_the_same_samples_are_drawn_in_memory_with_any_workers(make_config):
    configs = [make_config(in_memory=m, workers=w) for m in (False, True) for w in (0, 2)]
    plain, *others = [batches(config) for config in configs]
    for other in others:
        for one, two in zip(plain, other, strict=True):
            assert one.names == two.names
            assert torch.equal(one.batch.input_ids, two.batch.input_ids)
            assert torch.equal(one.batch.pixel_values, two.batch.pixel_values)
            torch.testing.assert_close(one.batch.depth, two.batch.depth, rtol=1e-3, atol=1e-3)


@BOTH
def test_several_datasets_have_their_weights(make_config, dataset, depth_weights, in_memory):
    config = make_config(
        datasets=(DatasetConfig(str(BRIDGE), 2.0, spec="bridge_orig"), DatasetConfig(str(dataset), 0.5, key="mine")),
        in_memory=in_memory,
        depth="estimate",
        depth_weights=depth_weights,
        held_out=0.0,
    )  # fmt: skip
    mixture, feed = fed(config)
    assert mixture.keys == ("bridge_orig/1.0.0", "mine")
    steps = len(mixture.training) // 8
    drawn = np.concatenate([loaded.source for loaded in islice(feed.training(0), steps)])
    samples = [int(found.samples.sum()) for found in mixture.surveys]
    expected = 2 * samples[0] / (2 * samples[0] + 0.5 * samples[1])
    assert abs((drawn == 0).mean() - expected) < 0.1
    loaded = next(feed.training(0))
    assert loaded.batch.pixel_values.shape == (8, 3, 32, 32)
    assert (loaded.batch.depth is not None) == in_memory
    assert train(replace(config, steps=2), device="cpu").finished


def test_a_dataset_under_two_keys_keeps_the_same_episodes_from_training(make_config, dataset, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(dataset)
    named = (DatasetConfig(str(dataset), key="one"), DatasetConfig(str(link), key="two"))
    for seed in range(3):
        one, two = fed(make_config(datasets=named, seed=seed))[0].held_out
        assert one.any()
        np.testing.assert_array_equal(one, two)


@BOTH
def test_a_mapping_means_the_same(make_config, dataset, tmp_path, in_memory):
    mapping = {"key": "mapped", "instruction": "Slide it"}
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    config = make_config(
        datasets=(DatasetConfig(str(dataset), mapping=tmp_path / "mapping.yaml"),), in_memory=in_memory
    )
    mixture, feed = fed(config)
    assert mixture.keys == ("mapped",)
    assert mixture.instructions()[0].lower() == "slide it"
    loaded = next(feed.training(0))
    assert set(loaded.keys) == {"mapped"}
    words = feed.processor.tokenizer.encode("slide it\n", add_special_tokens=False).ids
    assert loaded.batch.input_ids[0, 17 : 17 + len(words)].tolist() == words


@BOTH
def test_damage_ends_the_run_or_is_left_out(make_config, depth_weights, tmp_path, in_memory):
    root = shutil.copytree(BRIDGE, tmp_path / "bridge_orig")
    shard = root / "bridge_orig-train.tfrecord-00001-of-00002"
    data = bytearray(shard.read_bytes())
    data[200_000] ^= 4
    shard.write_bytes(data)
    config = make_config(
        datasets=(DatasetConfig(str(root)),),
        in_memory=in_memory,
        depth="estimate",
        depth_weights=depth_weights,
        on_bad="skip",
    )
    mixture, feed = fed(config)
    assert mixture.surveys[0].lengths.tolist() == [8, 8, 0, 8]
    drawn = {int(e) for loaded in islice(feed.training(0), 6) for e in loaded.episode}
    assert len(drawn) == 2
    assert 2 not in drawn
    with pytest.raises(CheckpointError, match="the record at offset 0 is damaged"):
        fed(replace(config, on_bad="raise"))


@BOTH
def test_depth_video_feeds_a_run_and_damage_of_it_is_left_out(make_config, tmp_path, in_memory):
    root = shutil.copytree(DEPTH_VIDEO, tmp_path / "d")
    mapping = {
        "image": "observation.images.top",
        "intrinsics": {"K": [[60, 0, 32], [0, 60, 24], [0, 0, 1]], "height": 48, "width": 64},
    }
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    datasets = (DatasetConfig(str(root), mapping=tmp_path / "mapping.yaml"),)
    config = make_config(datasets=datasets, in_memory=in_memory, held_out=0.0)
    depth = next(fed(config)[1].training(0)).batch.depth
    assert 0.09 < float(depth.min()) < float(depth.max()) < 1.9
    video = root / "videos/observation.images.top_depth/chunk-000/file-000.mp4"
    video.write_bytes(video.read_bytes()[:60000])
    skipping = replace(config, on_bad="skip")
    drawn = {int(e) for loaded in islice(fed(skipping)[1].training(0), 6) for e in loaded.episode}
    assert drawn == ({0, 1} if in_memory else {0, 1, 2})
    with pytest.raises(CheckpointError, match=r"images\.top_depth.*copy it again"):
        list(islice(fed(config)[1].training(0), 8))


@BOTH
def test_words_can_stand_for_missing_instructions(make_config, tmp_path, in_memory):
    root = write_dataset(tmp_path / "mute")
    (tmp_path / "mute.yaml").write_text(yaml.safe_dump({"instruction": ""}))
    mute = DatasetConfig(str(root), mapping=tmp_path / "mute.yaml")
    config = make_config(datasets=(mute,), in_memory=in_memory)
    with pytest.raises(
        InputError, match="4 have no instruction; leave it out, or say with --missing-instruction"
    ):
        fed(config)
    told = replace(config, missing_instruction="Push it", instructions=tmp_path / "words.json")
    (tmp_path / "words.json").write_text('["push it"]')
    _, feed = fed(told)
    words = feed.processor.tokenizer.encode("push it\n", add_special_tokens=False).ids
    ids = next(feed.training(0)).batch.input_ids
    assert (ids[:, 17 : 17 + len(words)] == torch.tensor(words)).all()


def test_each_sample_draws_which_depth_it_sees(make_config, depth_weights):
    options = {"depth_weights": depth_weights, "workers": 0}
    sensor, estimate = (batches(make_config(depth=depth, **options)) for depth in ("sensor", "estimate"))
    mixed = batches(make_config(depth="sensor", depth_mix=0.5, **options))
    seen = set()
    for one, other, both in zip(sensor, estimate, mixed, strict=True):
        assert one.names == both.names
        for row in range(8):
            rows = [batch.batch.depth[row] for batch in (one, other, both)]
            assert not torch.equal(rows[0], rows[1])
            assert any(torch.equal(rows[2], each) for each in rows[:2])
            seen.add(torch.equal(rows[2], rows[0]))
    assert seen == {False, True}
    with pytest.raises(InputError, match="depth_mix needs"):
        make_config(depth_mix=0.5, in_memory=False)


def test_guidance_needs_no_memory(make_config, depth_weights):
    options = {"privileged": ("observation.state",), "privileged_weight": 0.1, "soft_targets": 0.1}
    config = make_config(in_memory=False, steps=2, foreign_tokens=0.3, **options)
    assert train(config, device="cpu").finished
    rlds = replace(config, datasets=(DatasetConfig(str(BRIDGE)),), out=config.out / "rlds")
    with pytest.raises(InputError, match="nor other numbers beside its actions"):
        train(replace(rlds, depth="estimate", depth_weights=depth_weights), device="cpu")


def test_depth_is_estimated_of_each_camera_of_the_model(tmp_path):
    from fake_source import FakeSource, FakeView
    from tiny_policy import tiny

    from spatialvla.model.spatialvla import SpatialVLA
    from spatialvla.training.feed.estimated_depth import with_estimated_depth

    model = SpatialVLA(tiny().replace(cameras=("image", "wrist")))
    size = model.config.image_size
    views = {"wrist": FakeView(1, size=(size, size), missing_in=frozenset({1}))}
    source = FakeSource("one", (4, 3, 5), size=(size, size), views=views)
    told = []
    for _ in range(2):  # made, and then found
        seen = pickle.loads(
            pickle.dumps(with_estimated_depth(source, np.array([4, 3, 5]), model, tmp_path, told.append))
        )
        assert sum(told) == 12 + 9
        for index in range(3):
            episode = source.episode(index)
            ours = seen.episode(index)
            assert ours.other_views.keys() == episode.other_views.keys()
            pairs = [
                (ours, episode),
                *zip(ours.other_views.values(), episode.other_views.values(), strict=True),
            ]
            for mine, view in pairs:
                pixels = torch.from_numpy(view.images([2])).permute(0, 3, 1, 2).float() / 255
                with torch.no_grad():
                    expected = model.vision_zoe_model.estimate(pixels)
                np.testing.assert_allclose(mine.depth([2]), expected, rtol=2e-3, atol=2e-3)


def test_depth_is_estimated_where_samples_start_and_needs_room_for_no_more(tmp_path, monkeypatch):
    from fake_source import FakeSource
    from tiny_policy import tiny

    from spatialvla.model.spatialvla import SpatialVLA
    from spatialvla.training.feed.estimated_depth import with_estimated_depth

    model = SpatialVLA(tiny())
    size = model.config.image_size
    told = []
    source = FakeSource("one", (4, 3), size=(size, size), no_ops=frozenset({1, 2}))
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * size * size * 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    seen = with_estimated_depth(source, np.array([4, 3]), model, tmp_path, told.append)
    assert sum(told) == 3
    assert [bool(seen.episode(0).depth([step]).any()) for step in range(4)] == [True, False, False, True]


@BOTH
def test_a_dataset_is_looked_through_by_each_camera(make_config, depth_weights, tmp_path, in_memory):
    """Under one key, with each camera's own picture and place, and the same episodes held out of all."""
    told = write_told(tmp_path / "told")
    config = make_config(
        datasets=(DatasetConfig(str(told), camera="observation.images.front+observation.images.wrist"),),
        in_memory=in_memory,
        held_out=0.3,
        ego3d_frame="robot",
        depth="estimate",
        depth_weights=depth_weights,
        min_sigma=0.5,
    )
    mixture, feed = fed(config)
    assert mixture.keys == ("told",)
    source = mixture.sources[0]
    assert len(source) == 16
    for number in range(8):
        front, wrist = source.episode(2 * number), source.episode(2 * number + 1)
        np.testing.assert_array_equal(front.actions, wrist.actions)
        assert (front.images([1])[0] == GRAY).all()
        assert (wrist.images([1])[0] == COLORS[number % 4]).all()
        assert not np.array_equal(front.extrinsics, wrist.extrinsics)
    held_out = mixture.held_out[0].reshape(8, 2)
    assert held_out.sum(axis=0).tolist() == [2, 2]
    assert (held_out[:, 0] == held_out[:, 1]).all()
    assert len(next(feed.training(0)).names) == config.batch_size


def opened(folder, mapping=None, camera="observation.images.front+observation.images.wrist"):
    return views_of(open_dataset(DatasetConfig(str(folder), mapping=mapping, camera=camera), folder.parent))


def place(view):
    extrinsics = view.episode(0).extrinsics
    return None if extrinsics is None else extrinsics[0]


def write_mapping(folder, **lines):
    path = folder / "mapping.yaml"
    path.write_text(yaml.safe_dump(lines))
    return path


def test_the_lines_of_one_camera_are_not_those_of_another(tmp_path):
    told = write_told(tmp_path / "told")
    plain = opened(told)
    np.testing.assert_allclose(place(plain[0]), FRONT_POSE)
    np.testing.assert_allclose(place(plain[1]), WRIST_POSE)
    assert [view.episode(0).depth([0]) is None for view in plain] == [False, True]
    of_wrist = write_mapping(
        tmp_path,
        image="observation.images.wrist",
        intrinsics={"K": [[70, 0, 16], [0, 70, 16], [0, 0, 1]], "height": SIZE, "width": SIZE},
        extrinsics="observation.extrinsics.wrist",
    )
    for camera in ("observation.images.front+observation.images.wrist", "observation.images.front"):
        front, *wrist = opened(told, of_wrist, camera)
        np.testing.assert_allclose(place(front), FRONT_POSE)
        assert front.episode(0).camera.intrinsics[0, 0] == K[0, 0]
        assert [view.episode(0).camera.intrinsics[0, 0] for view in wrist] in ([], [70])
    (alone,) = opened(told, of_wrist, "observation.images.wrist")
    assert alone.episode(0).camera.intrinsics[0, 0] == 70


def test_a_camera_that_a_mapping_lists_has_its_lines_wherever_it_stands(tmp_path):
    told = write_told(tmp_path / "told")
    lines = {"K": [[70, 0, 16], [0, 70, 16], [0, 0, 1]], "height": SIZE, "width": SIZE}
    listed = write_mapping(
        tmp_path,
        image="observation.images.front",
        cameras={"hand": {"image": "observation.images.wrist", "intrinsics": lines}},
    )
    both = opened(told, listed)
    assert [view.key for view in both] == ["told", "told through 'hand'"]
    other_way = opened(told, listed, "observation.images.wrist+observation.images.front")
    assert [view.key for view in other_way] == ["told through 'hand'", "told"]
    assert [view.episode(0).camera.intrinsics[0, 0] for view in other_way] == [70, K[0, 0]]
    (alone,) = opened(told, listed, "observation.images.wrist")
    for view in (both[1], alone):
        assert view.episode(0).camera.intrinsics[0, 0] == 70


def test_cameras_of_one_short_name_are_told_apart():
    images = ["front", "right.top", "robot.image", "left.top"]
    mapping = FeatureMapping(cameras={"top": "left.top"}).with_cameras(images)
    assert {name: lines.image for name, lines in mapping.other_cameras.items()} == {
        "top": "left.top",
        "right.top": "right.top",
        "robot.image": "robot.image",
    }


def test_what_belongs_to_one_camera_is_given_to_one(tmp_path):
    """`observation.extrinsics` may be of any camera, and a calibration's only one, too."""
    told = write_told(tmp_path / "told")
    info = told / "meta" / "info.json"
    info.write_text(info.read_text().replace("observation.extrinsics.front", "observation.extrinsics"))
    for file in (told / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        names = [
            "observation.extrinsics" if n == "observation.extrinsics.front" else n for n in table.column_names
        ]
        pq.write_table(table.rename_columns(names), file)
    np.testing.assert_allclose(place(opened(told)[0]), FRONT_POSE)
    np.testing.assert_allclose(place(opened(told)[1]), WRIST_POSE)


@BOTH
def test_each_camera_has_to_have_what_a_run_needs(make_config, depth_weights, tmp_path, in_memory):
    told = write_told(tmp_path / "told")
    config = make_config(
        datasets=(DatasetConfig(str(told), camera="observation.images.front+observation.images.wrist"),),
        in_memory=in_memory,
        depth="sensor",
        min_sigma=0.5,
    )
    with pytest.raises(InputError, match="told through 'wrist'"):
        fed(config)


def test_intrinsics_of_one_camera_do_not_stand_in_for_anothers(make_config, depth_weights, tmp_path):
    told = write_told(tmp_path / "told")
    unknown = {"image": "observation.images.wrist", "intrinsics": "none"}
    mapping = write_mapping(tmp_path, image="observation.images.front", cameras={"wrist": unknown})
    camera = "observation.images.front+observation.images.wrist"
    config = make_config(
        datasets=(DatasetConfig(str(told), mapping=mapping, camera=camera),),
        depth="estimate",
        depth_weights=depth_weights,
        min_sigma=0.5,
    )
    with pytest.raises(
        InputError, match="told through 'wrist' does not tell its camera's intrinsics, and told does"
    ):
        fed(config)


def test_a_second_camera_that_is_not_there_is_named(tmp_path):
    told = write_told(tmp_path / "told")
    for pictures in (True, False):
        config = DatasetConfig(str(told), camera="observation.images.front + observation.images.top")
        with pytest.raises(InputError, match=r"cameras .*front, .*wrist, not observation.images.top"):
            open_dataset(config, tmp_path, pictures=pictures)


@pytest.mark.parametrize("camera", ["front+front", "front+", "+", ""])
def test_cameras_joined_wrongly_are_refused(camera):
    with pytest.raises(InputError, match=r"Cameras joined by \+ have to be names, each once, not"):
        DatasetConfig("told", camera=camera)
