"""The index of steps: what it gives is what records hold, it reads no more than is asked for, and damage is told."""

import os
import pickle
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rlds_writer import tensor, write_dataset

from spatialvla.common.files import file_state
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.rlds import RLDSDataset
from spatialvla.data.rlds.records import IndexedRecord
from spatialvla.data.rlds.storage import Storage
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.data.survey import survey

REAL = Path(__file__).parent / "rlds" / "bridge_orig"
SHARD = "bridge_orig-train.tfrecord-00000-of-00002"
IMAGE = {"image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}, "encodingFormat": "jpeg"}}
FRONT, WRIST = "steps/front", "steps/wrist"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(REAL, tmp_path / "bridge_orig"))


def opened(root, tmp_path, workers=0, **options):
    """workers: that index it; 0 leaves it without an index, unless there is one."""
    dataset = RLDSDataset(root, cache=tmp_path / "cache", **options)
    if workers:
        dataset.index_steps(workers)
    return dataset


def is_indexed(dataset, index=0):
    return isinstance(dataset.episode(index).record, IndexedRecord)


def assert_same(indexed, whole):
    """Every feature and every single image."""
    assert set(indexed) == set(whole)
    assert len(indexed) == len(whole)
    assert "none" not in indexed
    for key, feature in whole.items():
        assert (indexed[key].kind, bytes(indexed[key].data)) == (feature.kind, bytes(feature.data))
    for key in {FRONT, WRIST} & set(whole):
        items = whole[key].items()
        assert indexed.count(key) == whole.count(key) == len(items)
        assert indexed.some(key, None) == items
        for number in range(len(items)):
            assert indexed.some(key, [number]) == whole.some(key, [number]) == [items[number]]


lengths = st.integers(0, 40) | st.sampled_from([127, 128, 16383, 16384, 70_000])


@st.composite
def episodes(draw):
    steps = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    stored = {
        "steps/action": rng.random((steps, draw(st.integers(1, 4))), np.float32),
        "steps/words": [bytes(rng.integers(97, 122, 9, np.uint8))] * steps,
        "number": np.array([steps - 3]),
        "large": rng.random(draw(st.sampled_from([1, 9000])), np.float32),
    }
    for key in (FRONT, WRIST):
        if draw(st.booleans()):
            stored[key] = [rng.bytes(draw(lengths)) for _ in range(steps)]
    return stored


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(episodes(), min_size=1, max_size=4))
def test_what_is_indexed_is_what_the_records_hold(tmp_path_factory, stored):
    folder = tmp_path_factory.mktemp("made")
    features = {"action": tensor("float32", (-1,)), "words": {"text": {}}, "front": IMAGE, "wrist": IMAGE}
    metadata = {"number": tensor("int64"), "large": tensor("float32", (-1,))}
    root = write_dataset(folder / "made", features, metadata, stored)
    whole = [episode.record for episode in opened(root, folder)]
    dataset = opened(root, folder, 1)
    for index, expected in enumerate(whole):
        assert_same(dataset.episode(index).record, expected)
    # A record with other features than the first one's is read whole.
    for index, episode in enumerate(stored):
        assert is_indexed(dataset, index) == (episode.keys() <= stored[0].keys())


def test_episodes_are_the_same_with_an_index(tmp_path):
    plain, source = (OXESource(REAL, cache=tmp_path / name) for name in ("plain", "indexed"))
    source.prepare(2)
    assert is_indexed(source.dataset)
    assert not is_indexed(plain.dataset)
    for number in range(len(plain)):
        expected, got = plain.episode(number), source.episode(number)
        np.testing.assert_array_equal(got.actions, expected.actions)
        np.testing.assert_array_equal(got.state, expected.state)
        np.testing.assert_array_equal(got.images([5, 0]), expected.images([5, 0]))
        assert got.instructions == expected.instructions
        for name, view in expected.other_views.items():
            np.testing.assert_array_equal(got.other_views[name].images([3]), view.images([3]))
    again = pickle.loads(pickle.dumps(source.dataset))
    assert is_indexed(again)
    assert len(again.episode(1)) == len(plain.dataset.episode(1))


def test_an_index_is_made_once_and_again_for_changed_files(copy, tmp_path, monkeypatch):
    opened(copy, tmp_path, 2)
    with monkeypatch.context() as context:
        context.setattr("spatialvla.data.rlds.episode_index._index_shard", None)
        assert is_indexed(opened(copy, tmp_path, 1))
    files = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert not [name for name in files if "entries" in name]
    os.utime(copy / SHARD, (1, 1))
    assert not is_indexed(opened(copy, tmp_path))
    assert is_indexed(opened(copy, tmp_path, 1))


def test_an_index_that_was_broken_off_goes_on(copy, tmp_path, monkeypatch):
    import spatialvla.data.rlds.episode_index as module

    index_shard, done = module._index_shard, []

    def until_the_second(*task):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(task)
        return index_shard(*task)

    monkeypatch.setattr(module, "_index_shard", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        opened(copy, tmp_path, 1)
    monkeypatch.setattr(module, "_index_shard", index_shard)
    with monkeypatch.context() as context:
        reads = []
        context.setattr(module, "_entry", lambda *given: reads.append(given) or np.zeros(0, np.uint8))
        opened(copy, tmp_path, 1)
    assert len(reads) == 2  # the episodes of the second shard


@pytest.mark.parametrize("late", [False, True], ids=["before it is joined", "when it is joined"])
def test_two_processes_make_an_index_at_a_time(copy, tmp_path, monkeypatch, late):
    import spatialvla.data.rlds.episode_index as module

    join = module._join

    def beside_the_other(folder, *rest):
        if not late:  # the other one has finished, and taken away what this one has left to read
            join(folder.with_name("other"), *rest)
            shutil.move(folder.with_name("other"), folder.with_name(folder.name.rsplit("-", 1)[1]))
            for piece in (tmp_path / "cache").glob("*-entries.npz"):
                piece.unlink()
        join(folder, *rest)
        if late:
            shutil.copytree(folder, folder.with_name(folder.name.rsplit("-", 1)[1]))

    monkeypatch.setattr(module, "_join", beside_the_other)
    assert is_indexed(opened(copy, tmp_path, 1))
    assert [path.name for path in (tmp_path / "cache").glob(".partial*")] == []


def test_an_index_that_another_process_finishes_at_the_last_moment_stays(copy, tmp_path, monkeypatch):
    """Between the look that finds none and the removal of what may lie there damaged."""
    import spatialvla.data.rlds.episode_index as module

    opened(copy, tmp_path, 1)
    (made,) = (meta.parent for meta in (tmp_path / "cache").rglob("meta.npz"))
    others = made.rename(tmp_path / "made by the other")
    remove = module._remove_damaged

    def after_the_other(folder, images):
        others.rename(made)
        for piece in (tmp_path / "cache").glob("*-entries.npz"):
            piece.unlink()
        remove(folder, images)

    monkeypatch.setattr(module, "_remove_damaged", after_the_other)
    state = file_state(others / "meta.npz")
    dataset = opened(copy, tmp_path)
    dataset.index_steps(1)
    assert is_indexed(dataset)
    assert file_state(made / "meta.npz") == state
    assert not list((tmp_path / "cache").rglob(".partial-*"))


def test_pieces_of_an_earlier_call_that_found_the_features_in_another_order_are_not_taken(
    copy, tmp_path, monkeypatch
):
    import spatialvla.data.rlds.episode_index as module

    def interrupted(*given):
        raise KeyboardInterrupt

    keys = module._keys
    with monkeypatch.context() as context:
        context.setattr(module, "_join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(copy, tmp_path, 1)
    monkeypatch.setattr(module, "_keys", lambda split: keys(split)[::-1])
    dataset = opened(copy, tmp_path, 1)
    for index, whole in enumerate(opened(copy, tmp_path / "other")):
        assert is_indexed(dataset, index)
        assert_same(dataset.episode(index).record, whole.record)


def test_what_a_killed_process_has_left_does_not_stop_the_next_one(copy, tmp_path, monkeypatch):
    import spatialvla.data.rlds.episode_index as module

    join = module._join

    def in_a_folder_that_is_there(folder, *rest):
        folder.mkdir()
        (folder / "entries.bin").write_bytes(b"half")
        join(folder, *rest)

    monkeypatch.setattr(module, "_join", in_a_folder_that_is_there)
    assert is_indexed(opened(copy, tmp_path, 1))


def test_a_large_feature_that_changes_behind_the_index_is_noticed(copy, tmp_path):
    key = "steps/language_embedding"
    opened(copy, tmp_path, 1)
    whole = opened(copy, tmp_path / "other").episode(0).record[key]
    stamp, data = os.stat(copy / SHARD), bytearray((copy / SHARD).read_bytes())
    data[data.index(bytes(whole.data)) + 100] ^= 1
    assert bytes(opened(copy, tmp_path).episode(0).record[key].data) == bytes(whole.data)
    (copy / SHARD).write_bytes(data)
    os.utime(copy / SHARD, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    dataset = opened(copy, tmp_path)
    assert is_indexed(dataset)
    with pytest.raises(BadRecord, match=rf"{SHARD}: the record at offset 0 is damaged"):
        dataset.episode(0).record[key]


def test_damaged_records_have_no_entry_and_are_told_as_ever(copy, tmp_path):
    data = bytearray((copy / SHARD).read_bytes())
    data[200_000] ^= 4
    (copy / SHARD).write_bytes(data)
    dataset = opened(copy, tmp_path, 1)
    with pytest.raises(BadRecord, match=rf"{SHARD}: the record at offset 0 is damaged"):
        dataset.episode(0)
    assert is_indexed(dataset, 1)
    found = survey(OXESource(copy, cache=tmp_path / "cache", on_bad="skip"), on_bad="skip")
    assert len(found.damaged) == 1
    assert (found.lengths == 0).tolist() == [True, False, False, False]


def test_an_image_that_changes_behind_the_index_is_noticed(copy, tmp_path):
    dataset = opened(copy, tmp_path, 1)
    key = "steps/observation/image_0"
    episode, stamp = dataset.episode(0), os.stat(copy / SHARD)
    before = episode.images(key, [3])
    start = bytes((copy / SHARD).read_bytes()).index(bytes(episode.image_files(key)[2]))
    data = bytearray((copy / SHARD).read_bytes())
    data[start + 700] ^= 1
    (copy / SHARD).write_bytes(data)
    os.utime(copy / SHARD, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    dataset = opened(copy, tmp_path)
    assert is_indexed(dataset)
    np.testing.assert_array_equal(dataset.episode(0).images(key, [3]), before)
    with pytest.raises(
        BadRecord, match=rf"{SHARD}, offset 0: '{key}' of step 2, at offset {start}, is not what"
    ):
        dataset.episode(0).images(key, [2])
    (copy / SHARD).write_bytes(data[: start + 700])
    with pytest.raises(BadRecord, match="ends inside"):
        dataset.episode(0).images(key, [2])


@pytest.mark.parametrize("file", ["entries.bin", "episodes.bin", "meta.npz"])
def test_a_damaged_index_is_made_again_or_passed_over(tmp_path, file):
    expected = [len(episode) for episode in opened(REAL, tmp_path, 1)]
    (path,) = (tmp_path / "cache").glob(f"*/{file}")
    data = bytearray(path.read_bytes())
    for changed in (data[:-20], b"", data[:-30] + bytes([data[-30] ^ 1]) + data[-29:]):
        path.write_bytes(bytes(changed))
        dataset = opened(REAL, tmp_path)
        assert [len(episode) for episode in dataset] == expected
        assert not is_indexed(dataset, 3)
        if file != "entries.bin" or len(changed) != len(data):
            assert is_indexed(opened(REAL, tmp_path, 1), 3)
    path.unlink()
    assert is_indexed(opened(REAL, tmp_path, 1), 3)


def test_where_no_cache_can_be_written_records_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("spatialvla.data.rlds.episode_index._index_shard", None)  # reads nothing in vain
    dataset = opened(REAL, tmp_path, 1)
    assert not is_indexed(dataset)
    assert [len(episode) for episode in dataset] == [10, 10, 8, 10]


class Counted:
    """Ranges that a memory file system is asked for."""

    def __init__(self, monkeypatch):
        self.ranges = []
        kind = type(fsspec.filesystem("memory"))
        cat_file = kind.cat_file

        def counted(fs, path, start=None, end=None, **options):
            self.ranges.append((start, end))
            return cat_file(fs, path, start, end, **options)

        monkeypatch.setattr(kind, "cat_file", counted)

    @property
    def bytes(self):
        return sum(end - start for start, end in self.ranges)


@pytest.fixture
def remote(tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    for file in REAL.iterdir():
        memory.pipe(f"/indexed/{file.name}", file.read_bytes())
    source = OXESource("memory://indexed", cache=tmp_path / "cache")
    source.prepare(1)
    yield source, Counted(monkeypatch)
    memory.rm("/indexed", recursive=True)


def test_a_sample_of_a_remote_dataset_reads_its_own_image(remote):
    source, counted = remote
    episode = source.episode(2)
    _ = episode.actions, episode.instruction, episode.state
    assert counted.ranges == []  # all of that is in the index
    size = len(episode.view.stored.image_files("steps/observation/image_0")[3])
    counted.ranges.clear()
    episode.images([3 - episode.first_step])
    assert len(counted.ranges) == 1
    assert counted.bytes == size


def test_neighboring_images_are_one_request_and_far_ones_two(remote):
    source, counted = remote
    stored = source.dataset.episode(2)
    files = [len(file) for file in stored.image_files("steps/observation/image_0")]
    counted.ranges.clear()
    stored.images("steps/observation/image_0", [6, 5])
    assert len(counted.ranges) == 1
    assert files[5] + files[6] < counted.bytes < files[5] + files[6] + 10
    counted.ranges.clear()
    stored.images("steps/observation/image_0", [7, 0])
    assert len(counted.ranges) == 2
    assert counted.bytes == files[0] + files[7]


def test_the_index_of_a_remote_dataset_takes_few_requests(tmp_path, monkeypatch):
    memory = fsspec.filesystem("memory")
    for file in REAL.iterdir():
        memory.pipe(f"/few/{file.name}", file.read_bytes())
    dataset = opened("memory://few", tmp_path)
    counted = Counted(monkeypatch)
    dataset.index_steps()
    assert len(counted.ranges) == 3  # a block a shard, and one for the first record
    assert is_indexed(dataset)
    memory.rm("/few", recursive=True)


def test_few_of_many_shards_stay_open(tmp_path):
    for number in range(300):
        (tmp_path / f"{number}").write_bytes(bytes([number % 256]) * 4)
    open_before = len(os.listdir("/proc/self/fd"))
    storage = Storage(tmp_path)
    for number in [*range(300), 3, 299]:
        assert bytes(storage.read_range(f"{number}", 1, 3)) == bytes([number % 256]) * 2
    assert len(os.listdir("/proc/self/fd")) <= open_before + 128
    (tmp_path / "new").write_bytes(b"replaced")
    os.replace(tmp_path / "new", tmp_path / "299")
    assert bytes(storage.read_range("299", 0, 8)) == b"replaced"


@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 5000)), min_size=1, max_size=8))
def test_ranges_are_read_as_they_were_asked_for(spans):
    data = np.random.default_rng(0).bytes(300_000)
    fsspec.filesystem("memory").pipe("/ranges/file", data)
    ranges = [(start, start + length) for start, length in spans]
    found = Storage("memory://ranges").read_ranges("file", ranges)
    assert [bytes(part) for part in found] == [data[start:end] for start, end in ranges]
