"""Batches of several cameras and the arm's state: what is in them, what is masked, and that crops keep places right."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from cameras import looking_at
from fake_source import CAMERA, FakeSource, FakeView
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialvla import Processor
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import training_batches
from spatialvla.data.needed_parts import NeededParts, check_parts, datasets_with, untold_cameras
from spatialvla.data.samples import ReadOptions, SampleReader
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.extrinsics import project

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
PLACE, WRIST_PLACE = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1]), looking_at([0.5, 0.1, 0.5], [0.4, 0, 0.1])
SMALL = Camera(np.array([[40.0, 0, 25], [0, 40, 15], [0, 0, 1]]), 30, 50)
WRIST = FakeView(1, camera=SMALL, place=WRIST_PLACE, size=(30, 50))
SIDE = FakeView(2, place=PLACE)
ONE = FakeSource(
    "one", (6, 4, 9), extrinsics=PLACE, views={"wrist": WRIST, "side": SIDE}, state_names=("x", "y")
)
TWO = FakeSource("two", (5, 7), size=(40, 100), extrinsics=PLACE)
PARTS = ReadOptions(Augmentation.off(), cameras=("wrist",), state=True)


def opened(*sources, cameras=("image", "wrist"), state=True, **options):
    mixture = TrainingMixture.open(sources, **options)
    processor = Processor.from_pretrained(CHECKPOINT)
    return mixture, replace(
        processor,
        statistics={**processor.statistics, **mixture.statistics()},
        camera_names=cameras,
        other_cameras=mixture.other_cameras(cameras[1:]),
        state_names=mixture.state_names if state else (),
        state_statistics=mixture.state_statistics() if state else {},
    )


def test_rows_bring_the_cameras_and_the_state_that_their_datasets_have():
    mixture, processor = opened(ONE, TWO)
    loaded = next(iter(training_batches(mixture, processor, 31, PARTS)))
    batch, size = loaded.batch, processor.image_size
    assert (batch.views, len(batch.pixel_values), batch.state.shape) == (2, 62, (31, 2))
    slots = batch.attention_mask[:, : 2 * processor.image_token_num + 1]
    assert {1, 0} == set(loaded.source.tolist())
    for row, source in enumerate(loaded.source):
        has = source == 0
        assert slots[row, : processor.image_token_num].all()
        assert (slots[row, processor.image_token_num :] == has).all()
        first, wrist = batch.pixel_values[2 * row : 2 * row + 2]
        index, step = int(loaded.episode[row]), int(loaded.step[row])
        if not has:
            assert not wrist.any()
            continue
        episode = ONE.episode(index)
        alone = processor([episode.images([step])[0]], ["x"], "one", intrinsics=[CAMERA.intrinsics])
        assert torch.equal(first, alone.pixel_values[0])
        alone = processor(
            [episode.other_views["wrist"].images([step])[0]], ["x"], "one", intrinsics=[SMALL.intrinsics]
        )
        assert torch.equal(wrist, alone.pixel_values[0])
        np.testing.assert_allclose(batch.intrinsics[2 * row + 1], SMALL.scaled_to(size, size), rtol=1e-6)
        normalized = processor.state_statistics["one"].normalize(np.array([step, index]))
        np.testing.assert_allclose(batch.state[row], normalized, atol=1e-6)


def test_statistics_of_states_are_of_the_whole_dataset():
    mixture, _ = opened(replace(ONE, stateless=frozenset({1})), TWO)
    states = np.concatenate([ONE.episode(index).state for index in (0, 2)])
    found = mixture.state_statistics()
    assert set(found) == {"one"}
    np.testing.assert_allclose(found["one"].q99, np.quantile(states, 0.99, axis=0), atol=1e-12)
    assert mixture.other_cameras(("wrist", "side")) == {"wrist": {"one": SMALL}, "side": {"one": CAMERA}}
    assert mixture.other_cameras(("wrist",)) == {"wrist": {"one": SMALL}}
    assert mixture.state_names == ("x", "y")


def test_a_camera_that_came_later_is_known_by_its_first_episode():
    """Else the policy could not be asked without its intrinsics, as with those of the others."""
    late = replace(ONE, views={"wrist": replace(WRIST, missing_in=frozenset({0, 1})), "side": SIDE})
    mixture, _ = opened(late, TWO)
    assert mixture.other_cameras(("wrist", "side")) == {"wrist": {"one": SMALL}, "side": {"one": CAMERA}}
    assert mixture.other_cameras(()) == {}


def test_the_first_camera_looks_the_same_however_many_others_there_are():
    options = replace(PARTS, augmentation=Augmentation())
    alone = training_batches(*opened(ONE, TWO, cameras=("image",)), 4, ReadOptions(Augmentation()))
    several = training_batches(*opened(ONE, TWO), 4, options)
    for one, other in islice(zip(alone, several, strict=True), 10):
        assert one.names == other.names
        first = slice(None, None, other.batch.views)
        assert torch.equal(one.batch.pixel_values, other.batch.pixel_values[first])
        assert torch.equal(one.batch.intrinsics, other.batch.intrinsics[first])


def everything(loader, steps):
    return [
        (b.names, *(value.tolist() for value in vars(b.batch).values() if value is not None))
        for b in islice(loader, steps)
    ]


def test_it_goes_on_exactly_with_any_number_of_workers():
    sources = replace(ONE, views={"wrist": replace(WRIST, missing_in=frozenset({1}))}), TWO
    mixture, processor = opened(*sources)
    options = replace(PARTS, augmentation=Augmentation(), extrinsics=True)
    whole = everything(training_batches(mixture, processor, 3, options), 8)
    assert everything(training_batches(mixture, processor, 3, options, workers=1), 4) == whole[:4]
    assert (
        everything(training_batches(mixture, processor, 3, options, workers=2, first_step=5), 3) == whole[5:]
    )


def test_extrinsics_and_depth_are_of_each_picture():
    sources = (
        replace(ONE, has_depth=True, views={"wrist": replace(WRIST, depth_meters=2.0)}),
        replace(TWO, has_depth=True),
    )
    options = replace(PARTS, extrinsics=True, depth=True)
    loaded = next(iter(training_batches(*opened(*sources), 31, options)))
    batch = loaded.batch
    for row, source in enumerate(loaded.source):
        np.testing.assert_allclose(batch.extrinsics[2 * row], PLACE, atol=1e-6)
        assert batch.depth[2 * row].unique().tolist() == [1.0 + loaded.episode[row]]
        if source == 0:
            np.testing.assert_allclose(batch.extrinsics[2 * row + 1], WRIST_PLACE, atol=1e-6)
            assert batch.depth[2 * row + 1].unique().tolist() == [2.0 + loaded.episode[row]]
    # The model estimates the depth of a camera without a sensor, or with one that read nothing.
    assert batch.depth_known is None
    for blind in (WRIST, Blind(**vars(WRIST))):
        batch = next(
            iter(training_batches(*opened(replace(sources[0], views={"wrist": blind})), 5, options))
        ).batch
        assert batch.depth_known.tolist() == [True, False] * 5


class Blind(FakeView):
    """A sensor without a reading."""

    def depth(self, steps):
        return np.zeros((len(steps), *self.size), np.float32)


class Ramp(FakeView):
    """A picture whose red says how far right a pixel is, and whose green how far down."""

    def images(self, steps):
        rows, columns = np.mgrid[: self.size[0], : self.size[1]] + 0.5
        blue = np.zeros_like(rows)
        image = np.stack([255 * columns / self.size[1], 255 * rows / self.size[0], blue], axis=-1)
        return np.stack([np.rint(image).astype(np.uint8)] * len(steps))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    point=st.tuples(st.floats(0.3, 0.5), st.floats(-0.1, 0.1), st.floats(0.05, 0.15)),
    name=st.sampled_from(["image", "wrist"]),
)
def test_a_point_stays_on_what_the_picture_shows_of_it(processor, seed, point, name):
    """A crop moves K, and the extrinsics stay right: wherever the point is seen, the picture has its color."""
    large = {
        "size": (240, 320),
        "camera": Camera(np.array([[260.0, 0, 160], [0, 260, 120], [0, 0, 1]]), 240, 320),
    }
    views = {
        "image": Ramp(0, place=PLACE, length=1, **large),
        "wrist": Ramp(0, place=WRIST_PLACE, length=1, **large),
    }
    seen = views[name]
    pixel = project(np.array([point]), seen.camera.intrinsics, seen.place)[0][0]
    assert (pixel > 0).all()
    assert (pixel < [320, 240]).all()
    crop = Augmentation(0.5, 1.0, brightness=0, contrast=0, saturation=0, hue=0)
    options = ReadOptions(crop, extrinsics=True, cameras=("wrist",))
    reader = SampleReader(processor, options, "one", 0, np.random.default_rng(seed))
    episode = replace(
        ONE.episode(0), other_views={"wrist": views["wrist"]}, extrinsics=views["image"].extrinsics
    )
    episode.images, episode.camera = views["image"].images, views["image"].camera
    sample = reader.sample(episode, 0, "", ())
    view = sample.views[name]
    u, v = project(np.array([point]), view.intrinsics, view.extrinsics)[0][0]
    size = processor.image_size
    if not (1 < u < size - 1 and 1 < v < size - 1):
        return  # cut off
    red, green, _ = view.image[int(v), int(u)].astype(float)
    # Half a pixel of the picture that comes out, and rounding.
    slack = 255 * np.array([1, 1]) / size + 2
    assert abs(red - 255 * pixel[0] / 320) < slack[0]
    assert abs(green - 255 * pixel[1] / 240) < slack[1]


@pytest.fixture(scope="module")
def processor():
    return opened(ONE)[1]


def test_what_a_sample_lacks_is_said():
    unplaced = replace(ONE, views={"wrist": replace(WRIST, place=None)})
    with pytest.raises(
        InputError, match=r"one does not tell where its camera 'wrist' stands.*'cameras: \{wrist: "
    ):
        next(iter(training_batches(*opened(unplaced), 2, replace(PARTS, extrinsics=True))))

    class Damaged(FakeSource):
        def episode(self, index):
            episode = super().episode(index)
            if index == 1:
                episode.other_views["wrist"] = Broken(**vars(episode.other_views["wrist"]))
            return episode

    mixture, processor = opened(Damaged(**vars(ONE)))
    with pytest.raises(CheckpointError, match="wrist of episode 1 is broken"):
        next(iter(training_batches(mixture, processor, 19, PARTS)))
    loaded = next(iter(training_batches(mixture, processor, 19, replace(PARTS, on_bad="skip"))))
    assert set(filter(None, loaded.replaced)) == {"wrist of episode 1 is broken"}
    assert 1 not in loaded.episode


class Broken(FakeView):
    def images(self, steps):
        raise CheckpointError(f"wrist of episode {self.index} is broken")


def test_needs_of_a_run_are_checked_by_a_look_at_each_dataset():
    cameras = ("image", "wrist")
    check_parts([ONE, TWO], cameras, 2, extrinsics=True)
    check_parts([replace(TWO, extrinsics=None)], ("image",))
    unplaced = replace(ONE, views={"wrist": replace(WRIST, place=None)})
    without_k = replace(ONE, views={"wrist": replace(WRIST, camera=None)})
    check_parts([without_k], cameras)
    assert [datasets_with([TWO, without_k, ONE], name) for name in ("wrist", "side", "top")] == [2, 1, 0]
    assert untold_cameras([TWO, without_k, ONE], ("wrist", "side")) == {"wrist"}
    for sources, wanted, sentence in (
        ([ONE, replace(TWO, extrinsics=None)], (cameras, 0, True),
         r"two does not tell where its camera stands.*'extrinsics: …' or 'calib"),
        ([unplaced], (cameras, 0, True), r"one does not tell where its camera 'wrist' stands"),
        ([without_k], (cameras, 0, True),
         r"one does not tell the intrinsics of its camera 'wrist'; .*'cameras: \{wrist: \{intr"),
        ([TWO], (cameras, 0, False), r"None of the datasets has the camera 'wrist' \(two\).*'cameras: \{wrist: …\}'"),
        ([TWO], (("image",), 2, False), r"None of the datasets has the arm's state \(two\).*'state: \{feature: …\}'"),
        ([TWO, ONE], (cameras, 7, False), r"The state of one has 2 numbers \(x, y\), and the policy takes 7; choose"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=sentence):
            check_parts(sources, *wanted)
    with pytest.raises(InputError, match="two has no depth sensor; train with estimated depth"):
        check_parts([replace(ONE, has_depth=True), TWO], ("image",), depth=True)
    check_parts([replace(ONE, has_depth=True)], ("image",), depth=True)
    # One that only some episodes have is found.
    rare = replace(ONE, views={"wrist": replace(WRIST, missing_in=frozenset({0, 1}))})
    check_parts([rare, TWO], cameras, 2, extrinsics=True)
    # Damaged and empty episodes are passed over.
    check_parts([replace(ONE, lengths=(0, 3, 4), damaged=frozenset({1}))], cameras, 2, extrinsics=True)


def test_what_a_run_does_not_read_is_not_there():
    kept = NeededParts(ONE, ("side",), state=False)
    assert (list(kept.episode(0).other_views), kept.state_names, kept.episode(0).state) == (
        ["side"],
        (),
        None,
    )
    whole = NeededParts(ONE)
    assert list(whole.episode(0).other_views) == ["wrist", "side"]
    np.testing.assert_array_equal(whole.episode(1).state, ONE.episode(1).state)
    # Nor does it matter whether it could be read.
    broken = TrainingMixture.open([NeededParts(replace(ONE, state_names=("x", "y", "z")), (), state=False)])
    assert broken.state_statistics() == {}
    assert broken.contents == TrainingMixture.open([replace(ONE, views={}, state_names=())]).contents


def test_a_run_of_one_camera_reads_nothing_for_further_ones():
    reads = []
    source = replace(ONE)
    source.episode = reads.append
    assert untold_cameras([source], ()) == set()
    assert not reads
