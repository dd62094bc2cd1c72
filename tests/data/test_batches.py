"""Batches of mixtures: what is in them, and that workers, ranks and interruptions change nothing."""

import multiprocessing
import pickle
import shutil
import signal
import subprocess
import threading
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from cameras import looking_at
from fake_source import CAMERA, FakeSource

from spatialvla import Processor
from spatialvla.batch import GIVEN
from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import Batches, evaluation_batches, training_batches
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.samples import ReadOptions
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
RLDS = Path(__file__).parent / "rlds" / "bridge_orig"
ONE = FakeSource("one", (6, 4, 9))
TWO = FakeSource("two", (5, 7), size=(40, 100), camera=None)


def opened(*sources, **options):
    """A mixture, and a processor that knows its statistics; chunks of 2 actions."""
    mixture = TrainingMixture.open(sources, **options)
    processor = Processor.from_pretrained(CHECKPOINT)
    return mixture, replace(processor, statistics={**processor.statistics, **mixture.statistics()})


def given(loader, steps):
    """Everything in some batches, as comparable values."""
    return [
        (b.names, b.source.tolist(), b.actions.tolist(), b.batch.pixel_values.sum((1, 2, 3)).tolist(),
         b.batch.intrinsics.tolist(), b.batch.input_ids.tolist(), b.batch.labels.tolist())
        for b in islice(loader, steps)
    ]  # fmt: skip


def names(batches):
    return [name for batch in batches for name in batch[0]]


def test_no_loss_is_taken_on_what_was_not_planned():
    taken_over = replace(ONE, takeover={0: (2, 3), 1: (), 2: ()})
    mixture, processor = opened(taken_over)
    loader = training_batches(mixture, processor, 19, ReadOptions(Augmentation.off()))
    loaded = next(iter(loader))
    plain = next(iter(training_batches(*opened(ONE), 19, ReadOptions(Augmentation.off()))))
    assert loaded.names == plain.names
    assert torch.equal(loaded.batch.input_ids, plain.batch.input_ids), "the tokens stay what they were"
    given = loaded.batch.labels == GIVEN
    assert torch.equal(loaded.batch.labels[~given], plain.batch.labels[~given])
    # Chunks of 2: the second action of what begins where a policy drives answers another state.
    begun = [name in {"one episode 0 step 2", "one episode 0 step 3"} for name in loaded.names]
    assert given.sum(dim=1).tolist() == [3 * driven for driven in begun]
    action = plain.batch.labels >= processor.action_token_begin_idx
    assert given[action].view(19, 2, 3)[begun].tolist() == [[[False] * 3, [True] * 3]] * 2
    assert loaded.label_count == plain.label_count - 6


def test_a_sample_is_what_its_name_says():
    mixture, processor = opened(ONE)
    loader = training_batches(mixture, processor, 19, ReadOptions(Augmentation.off()))
    loaded = next(iter(loader))
    assert sorted(loaded.names) == sorted(
        f"one episode {e} step {t}" for e, length in enumerate(ONE.lengths) for t in range(length)
    )
    for row, name in enumerate(loaded.names):
        index, step = int(name.split()[2]), int(name.split()[4])
        episode = ONE.episode(index)
        alone = processor(
            list(episode.images([step])),
            [f"move {index}"],
            "one",
            intrinsics=[CAMERA.intrinsics],
            actions=loaded.actions[row : row + 1],
        )
        assert torch.equal(loaded.batch.pixel_values[row], alone.pixel_values[0])
        torch.testing.assert_close(loaded.batch.intrinsics[row], alone.intrinsics[0])
        assert torch.equal(loaded.batch.input_ids[row], alone.input_ids[0])
        assert torch.equal(loaded.batch.labels[row], alone.labels[0])
        now, then = loaded.actions[row]
        assert now.tolist() == [step, index, 0, 0, 0, 0, step % 2 == 0]
        if step + 1 < ONE.lengths[index]:
            assert then.tolist() == [step + 1, index, 0, 0, 0, 0, step % 2 == 1]
        else:
            assert then.tolist() == [0, 0, 0, 0, 0, 0, now[6]]


def test_rows_of_several_datasets_have_their_own_camera_and_statistics():
    mixture, processor = opened(ONE, TWO)
    loaded = next(iter(training_batches(mixture, processor, 31, ReadOptions(Augmentation.off()))))
    assert np.bincount(loaded.source).tolist() == [19, 12]
    side = processor.image_size
    for row, source in enumerate(loaded.source):
        camera = CAMERA if source == 0 else processor.cameras["default"]
        np.testing.assert_allclose(loaded.batch.intrinsics[row], camera.scaled_to(side, side), rtol=1e-6)
    labels = loaded.batch.labels[loaded.batch.labels >= processor.action_token_begin_idx].view(31, -1)
    decoded = processor.decode(labels, [mixture.keys[source] for source in loaded.source])
    for row, source in enumerate(loaded.source):
        alone = processor.decode(labels[row : row + 1], mixture.keys[source])
        np.testing.assert_array_equal(decoded[row], alone[0])


def test_a_crop_moves_the_camera_along():
    mixture, processor = opened(replace(ONE, has_depth=True))
    options = ReadOptions(Augmentation(0.5, 1.0), depth=True)
    batch = next(iter(training_batches(mixture, processor, 19, options))).batch
    focal = batch.intrinsics[:, 0, 0] / (CAMERA.intrinsics[0, 0] * processor.image_size / 80)
    assert 1.0 <= focal.min() < focal.max() <= 2**0.5 + 1e-3
    assert batch.depth.shape == (19, processor.image_size, processor.image_size)
    assert set(batch.depth.unique().tolist()) == {1.0, 2.0, 3.0}


class SmallDepth(FakeSource):
    """A sensor of half as many pixels a side, whose left half reads 1 m and whose right half 3 m."""

    def episode(self, index):
        episode = super().episode(index)
        height, width = (size // 2 for size in self.size)
        readings = np.where(np.arange(width) < width // 2, 1, 3)
        episode.depth = lambda steps: np.tile(readings.astype(np.float32), (len(steps), height, 1))
        return episode


def test_depth_of_other_pixels_lies_on_the_picture():
    mixture, processor = opened(SmallDepth("one", (3, 4), has_depth=True))
    options = ReadOptions(Augmentation(1.0), depth=True)
    depth = next(iter(training_batches(mixture, processor, 2, options))).batch.depth
    half = processor.image_size // 2
    assert depth[..., :half].unique().tolist() == [1.0]
    assert depth[..., half:].unique().tolist() == [3.0]


def test_depth_must_be_there_where_it_is_asked_for():
    mixture, processor = opened(ONE)
    with pytest.raises(InputError, match="one has no depth sensor"):
        next(iter(training_batches(mixture, processor, 2, ReadOptions(Augmentation(), depth=True))))
    assert next(iter(training_batches(mixture, processor, 2))).batch.depth is None


def test_batches_are_a_function_of_the_seed():
    mixture, processor = opened(ONE, TWO, seed=5)
    first = given(training_batches(mixture, processor, 4), 20)
    assert given(training_batches(*opened(ONE, TWO, seed=5), 4), 20) == first
    assert names(given(training_batches(*opened(ONE, TWO, seed=6), 4), 20)) != names(first)
    epochs = names(first)[:31], names(first)[31:62]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    assert len(set(epochs[0])) == 31


def test_the_same_sample_looks_different_the_next_time():
    single = FakeSource("single", (1,))
    first, second = given(training_batches(*opened(single), 1), 2)
    assert first[0] == second[0]
    assert first[3] != second[3]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 2)])
def test_it_goes_on_in_mid_epoch_with_any_number_of_workers(before, after):
    mixture, processor = opened(ONE, TWO)
    whole = given(training_batches(mixture, processor, 3), 12)
    assert given(training_batches(mixture, processor, 3, workers=before), 5) == whole[:5]
    resumed = training_batches(mixture, processor, 3, workers=after, first_step=5)
    assert given(resumed, 7) == whole[5:]


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_leave_signals_to_their_parent(start_method):
    """A scheduler's SIGTERM and a terminal's Ctrl-C reach all processes at once."""
    mixture, processor = opened(ONE, TWO)
    whole = given(training_batches(mixture, processor, 3), 12)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    loader = training_batches(mixture, processor, 3, workers=2, start_method=start_method)
    before = given(loader, 1)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for name in ("TERM", "INT"):  # from another process than their parent
        subprocess.run(["kill", f"-{name}", *(str(worker.pid) for worker in workers)], check=True)
    assert before + given(loader, 11) == whole
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    workers[0].terminate()  # as at the parent's end, where no more batch is awaited
    workers[0].join(20)
    assert workers[0].exitcode == 0
    loader.close()
    workers[1].join(20)
    assert workers[1].exitcode == 0


def test_ranks_have_each_draw_once_with_any_workers():
    mixture, processor = opened(ONE, TWO)
    whole = given(training_batches(mixture, processor, 4), 8)
    parts = [given(training_batches(mixture, processor, 2, rank=r, ranks=2, workers=r), 8) for r in range(2)]
    for step, batch in enumerate(whole):
        assert names([batch]) == names([parts[0][step], parts[1][step]])
    assert len(set(names(parts[0] + parts[1])[:31])) > 25
    assert len(set(names(whole)[:31])) == 31


def test_a_damaged_sample_is_fatal_or_replaced_by_one_of_its_dataset():
    bad = replace(ONE, broken_images=frozenset({1}))
    mixture, processor = opened(bad, TWO)
    for workers in (0, 1):
        with pytest.raises(CheckpointError, match=r"^one episode 1 holds a broken image$"):
            given(training_batches(mixture, processor, 31, workers=workers), 1)
    good = next(iter(training_batches(*opened(ONE, TWO), 31)))
    skipping = ReadOptions(Augmentation(), on_bad="skip")
    for workers in (0, 2):
        loaded = next(iter(training_batches(mixture, processor, 31, skipping, workers=workers)))
        assert sum(map(bool, loaded.replaced)) >= 4
        assert set(loaded.replaced) == {"", "one episode 1 holds a broken image"}
        assert [part.replaced for part in loaded.split(31)] == [(reason,) for reason in loaded.replaced]
        assert loaded.source.tolist() == good.source.tolist()
        kept = [name for name in good.names if "one episode 1" not in name]
        assert kept == [n for n, reason in zip(loaded.names, loaded.replaced, strict=True) if not reason]
        assert [name for name, was in zip(loaded.names, good.names, strict=True) if name == was] == kept
        assert not any("one episode 1" in name for name in loaded.names)


def test_a_dataset_that_is_damaged_all_over_ends_it():
    mixture, processor = opened(replace(ONE, broken_images=frozenset({0, 1, 2})))
    with pytest.raises(CheckpointError, match="101 samples of one one after another are damaged"):
        given(training_batches(mixture, processor, 1, ReadOptions(Augmentation(), on_bad="skip")), 1)


def test_episodes_that_changed_since_the_survey_are_noticed():
    mixture, processor = opened(replace(ONE))
    loader = training_batches(mixture, processor, 19)
    mixture.sources[0].lengths = (1, 1, 1)
    with pytest.raises(CheckpointError, match="has changed since it was surveyed"):
        given(loader, 1)


class Waiting(FakeSource):
    """Pictures that are there once four are asked for at a time."""

    def episode(self, index):
        episode = super().episode(index)
        images = episode.images

        def waiting(steps):
            GATE.wait(timeout=30)
            return images(steps)

        episode.images = waiting
        return episode


GATE = threading.Barrier(4)


def test_samples_that_wait_for_storage_are_read_at_a_time():
    lengths = (6, 4, 9, 3, 8)
    mixture, processor = opened(FakeSource("one", lengths))
    expected = given(training_batches(mixture, processor, 8), 3)
    mixture, processor = opened(Waiting("one", lengths))
    options = ReadOptions(Augmentation(), at_once=4)
    assert given(training_batches(mixture, processor, 8, options), 3) == expected
    batches = Batches(mixture, mixture.training, processor, options, recent=2)
    again = pickle.loads(pickle.dumps(batches))
    assert again[list(range(8))].names == batches[list(range(8))].names
    assert len(batches._episodes) == 2


def test_few_episodes_are_kept_and_none_are_sent_along():
    source = FakeSource("many", (3,) * 50, reads=[])
    mixture, processor = opened(source)
    batches = Batches(mixture, mixture.training, processor, ReadOptions(Augmentation()), recent=4)
    for number in range(40):
        batches[[number]]
    assert len(batches._episodes) == 4
    sent = pickle.loads(pickle.dumps(batches))
    assert not sent._episodes
    assert sent[[7]].names == batches[[7]].names


def test_held_out_samples_are_evaluated_as_they_are():
    mixture, processor = opened(ONE, TWO, held_out=0.4)
    first, second = (
        given(evaluation_batches(mixture, processor, 3, limit=8, workers=workers), None) for workers in (0, 2)
    )
    assert first == second
    held = {f"{source.key} episode {e}" for source, out in zip(mixture.sources, mixture.held_out, strict=True)
            for e in np.flatnonzero(out)}  # fmt: skip
    assert {" ".join(name.split()[:3]) for name in names(first)} == held
    assert len(names(first)) == 8
    trained = {
        " ".join(name.split()[:3]) for name in names(given(training_batches(mixture, processor, 4), 20))
    }
    assert not trained & held
    parts = [
        names(given(evaluation_batches(mixture, processor, 3, limit=8, rank=r, ranks=3), None))
        for r in range(3)
    ]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert sorted(chain(*parts)) == sorted(names(first)[:6])
    assert not list(evaluation_batches(*opened(ONE), 3, limit=8))


def test_open_x_embodiment_from_shards_to_batches(tmp_path):
    """The dataset that the real TFDS wrote, one of its records damaged."""
    root = shutil.copytree(RLDS, tmp_path / "bridge_orig")
    shard = root / "bridge_orig-train.tfrecord-00001-of-00002"
    data = bytearray(shard.read_bytes())
    data[200_000] ^= 4
    shard.write_bytes(data)
    source = OXESource(root, cache=tmp_path / "index")
    with pytest.raises(CheckpointError, match=r"00001-of-00002: the record at offset 0 is damaged"):
        TrainingMixture.open([source])
    mixture, processor = opened(source, on_bad="skip", held_out=0.3, cache=tmp_path / "surveys")
    (found,) = mixture.surveys
    assert found.lengths.tolist() == [8, 8, 0, 8]
    assert len(found.damaged) == 1
    assert mixture.held_out[0].sum() == 1
    alone, shared = (given(training_batches(mixture, processor, 5, workers=workers), 4) for workers in (0, 2))
    assert alone == shared
    held = int(np.flatnonzero(mixture.held_out[0])[0])
    assert {int(name.split()[2]) for name in names(alone)} == {0, 1, 3} - {held}
    loaded = next(iter(training_batches(mixture, processor, 5)))
    assert loaded.batch.pixel_values.shape == (5, 3, processor.image_size, processor.image_size)


def test_a_crop_leaves_extrinsics_as_they_are():
    moved = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1])
    mixture, processor = opened(replace(ONE, extrinsics=moved))
    options = ReadOptions(Augmentation(0.5, 1.0), extrinsics=True)
    batch = next(iter(training_batches(mixture, processor, 19, options))).batch
    assert batch.intrinsics[:, 0, 0].std() > 0  # cropped
    np.testing.assert_allclose(batch.extrinsics, np.tile(moved, (19, 1, 1)), atol=1e-7)
    assert next(iter(training_batches(mixture, processor, 19))).batch.extrinsics is None


def test_extrinsics_must_be_there_where_they_are_asked_for():
    mixture, processor = opened(ONE)
    options = ReadOptions(Augmentation(), extrinsics=True)
    with pytest.raises(InputError, match=r"one does not tell where its camera stands.*'extrinsics: …'"):
        next(iter(training_batches(mixture, processor, 2, options)))
