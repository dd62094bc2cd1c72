"""RLDS folders as TFDS writes them, whole and damaged. The dataset under rlds/ was written by the real TFDS."""

import io
import pickle
import shutil
import zlib
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rlds_writer import example, tensor, write_dataset

from spatialvla.data.rlds import RLDSDataset
from spatialvla.data.rlds.example import FeatureList, parse_example
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.errors import CheckpointError, InputError

REAL = Path(__file__).parent / "rlds" / "bridge_orig"
SHARD = "bridge_orig-train.tfrecord-00000-of-00002"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(REAL, tmp_path / "bridge_orig"))


def opened(root, tmp_path, **options):
    return RLDSDataset(root, cache=tmp_path / "cache", **options)


def test_the_real_dataset_is_read(tmp_path):
    dataset = opened(REAL, tmp_path)
    assert dataset.name == "bridge_orig"
    assert [int(episode.numbers("episode_metadata/episode_id")) for episode in dataset] == [0, 2, 1, 3]
    assert [len(episode) for episode in dataset] == [10, 10, 8, 10]
    episode = dataset.episode(2)
    assert set(episode.texts("steps/language_instruction")) == {"put the red block on plate 1"}
    assert episode.texts("episode_metadata/file_path") == ["/raw/ep1"]
    action, is_last = episode.numbers("steps/action"), episode.numbers("steps/is_last")
    assert (action.shape, action.dtype) == ((8, 7), np.float32)
    np.testing.assert_allclose(action[0, :3], [7.2914478e-03, 5.8826501e-03, 5.6844484e-04])
    assert is_last.dtype == bool
    assert is_last.tolist() == [False] * 7 + [True]
    images = episode.images("steps/observation/image_0")
    assert (images.shape, images.dtype) == ((8, 256, 256, 3), np.uint8)
    np.testing.assert_array_equal(episode.images("steps/observation/image_0", [5])[0], images[5])


def test_any_fsspec_url_and_another_process(tmp_path):
    memory = fsspec.filesystem("memory")
    for file in REAL.iterdir():
        memory.pipe(f"/bucket/{file.name}", file.read_bytes())
    remote, local = opened("memory://bucket", tmp_path), opened(REAL, tmp_path)
    for dataset in (remote, pickle.loads(pickle.dumps(local))):
        assert len(dataset) == len(local)
        key = "steps/action"
        np.testing.assert_array_equal(dataset.episode(3).numbers(key), local.episode(3).numbers(key))


def test_the_index_is_made_once_and_again_for_a_changed_file(copy, tmp_path, monkeypatch):
    opened(copy, tmp_path)
    with monkeypatch.context() as context:
        context.setattr("spatialvla.data.rlds.tfrecord.index_shard", None)
        assert len(opened(copy, tmp_path)) == 4
    data = (copy / SHARD).read_bytes()
    (copy / SHARD).write_bytes(data + data)
    with pytest.raises(BadRecord, match="has 4 records where 2 were announced"):
        opened(copy, tmp_path)


def test_a_truncated_shard_is_named_or_read_as_far_as_it_goes(copy, tmp_path):
    data = (copy / SHARD).read_bytes()
    second = int(np.frombuffer(data[:8], "<u8")[0]) + 16
    for length, what in ((second + 5, "inside the length"), (second + 5000, "inside the record")):
        (copy / SHARD).write_bytes(data[:length])
        with pytest.raises(BadRecord, match=f"{SHARD} ends {what} at offset {second}, after 1 of 2 records"):
            opened(copy, tmp_path)
        dataset = opened(copy, tmp_path, on_bad="skip")
        assert len(list(dataset)) == 3
        assert len(dataset.broken) == 1
        assert not dataset.skipped


def test_an_empty_shard_is_noticed(copy, tmp_path):
    (copy / SHARD).write_bytes(b"")
    with pytest.raises(BadRecord, match=f"{SHARD} has 0 records where 2 were announced"):
        opened(copy, tmp_path)
    assert len(opened(copy, tmp_path, on_bad="skip")) == 2


@pytest.mark.parametrize("place", [20, 200_000])
def test_a_flipped_bit_in_the_data_is_found(copy, tmp_path, place):
    data = bytearray((copy / SHARD).read_bytes())
    data[place] ^= 4
    (copy / SHARD).write_bytes(data)
    with pytest.raises(BadRecord, match=rf"{SHARD}: the record at offset 0 is damaged"):
        opened(copy, tmp_path).episode(0)
    dataset = opened(copy, tmp_path, on_bad="skip")
    assert len(list(dataset)) == 3
    assert len(dataset.skipped) == 1


def test_a_flipped_bit_in_a_length_is_found(copy, tmp_path):
    data = bytearray((copy / SHARD).read_bytes())
    data[1] ^= 4
    (copy / SHARD).write_bytes(data)
    with pytest.raises(BadRecord, match=f"{SHARD} has a damaged length at offset 0"):
        opened(copy, tmp_path)


def test_what_is_missing_is_named(copy, tmp_path):
    with pytest.raises(InputError, match="has the splits train, not val"):
        opened(copy, tmp_path, split="val")
    dataset = opened(copy, tmp_path)
    with pytest.raises(InputError, match="has no image 'steps/image'; it has steps/observation/image_0"):
        dataset.episode(0).images("steps/image")
    with pytest.raises(InputError, match="episodes 0 to 3, not 4"):
        dataset.episode(4)
    (copy / SHARD).unlink()
    with pytest.raises(CheckpointError, match="has 1 of the 2 files of split train"):
        opened(copy, tmp_path)
    for content, message in (
        ("[]", "holds no JSON object"),
        ("{", "is not valid JSON"),
        ('{"splits": [{"shardLengths": ["1"]}]}', "has splits that cannot be read"),
    ):
        (copy / "dataset_info.json").write_text(content)
        with pytest.raises(CheckpointError, match=rf"dataset_info\.json {message}"):
            opened(copy, tmp_path)
    shutil.copy(REAL / "dataset_info.json", copy)
    (copy / "features.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"features\.json is no description"):
        opened(copy, tmp_path)


DTYPES = ("bool", "uint8", "int8", "uint16", "int32", "int64", "uint64", "float16", "float32", "float64")


def test_a_packed_tensor_that_ends_too_early(tmp_path):
    whole = zlib.compress(np.zeros((2, 3), np.float32).tobytes())
    for cut in (whole[:-1], whole[:3], b""):
        root = write_dataset(
            tmp_path / str(len(cut)),
            steps={"x": tensor("float32", (2, 3), "zlib")},
            metadata={},
            episodes=[{"steps/x": [whole, cut]}],
        )
        with pytest.raises(CheckpointError, match="'steps/x' cannot be unpacked"):
            opened(root, tmp_path).episode(0).numbers("steps/x")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoding", ["none", "bytes", "zlib"])
def test_tensors_of_every_type_come_back(tmp_path, dtype, encoding):
    rng = np.random.default_rng(0)
    values = (200 * rng.standard_normal((5, 2, 3))).astype(np.int64).astype(dtype)
    pack = {"none": lambda v: v, "bytes": np.ndarray.tobytes, "zlib": lambda v: zlib.compress(v.tobytes())}
    items = values if encoding == "none" else [pack[encoding](value) for value in values]
    single = values[0] if encoding == "none" else [pack[encoding](values[0])]
    if dtype == "uint64" and encoding == "none":
        items, single = values.view(np.int64), values[0].view(np.int64)
    root = write_dataset(
        tmp_path / "made",
        steps={"x": tensor(dtype, (2, 3), encoding)},
        metadata={"y": tensor(dtype, (-1, 3), encoding)},
        episodes=[{"steps/x": items, "y": single}],
    )
    episode = opened(root, tmp_path).episode(0)
    for key, expected in (("steps/x", values), ("y", values[0])):
        read = episode.numbers(key)
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, expected)


def test_sequences_in_steps_and_shapes_that_vary(tmp_path):
    grids = [np.arange(6, dtype=np.uint8).reshape(2, 3), np.arange(4, dtype=np.uint8).reshape(4, 1)]
    root = write_dataset(
        tmp_path / "made",
        steps={
            "boxes": {"sequence": {"feature": tensor("float32", (2,)), "length": "-1"}},
            "grid": tensor("uint8", (-1, -1), "bytes"),
        },
        metadata={},
        episodes=[
            {
                "steps/boxes/ragged_flat_values": np.arange(6.0),
                "steps/boxes/ragged_row_lengths_0": [1, 2],
                "steps/grid/value": [grid.tobytes() for grid in grids],
                "steps/grid/shape": [2, 3, 4, 1],
            }
        ],
    )
    episode = opened(root, tmp_path).episode(0)
    assert [rows.tolist() for rows in episode.numbers("steps/boxes")] == [[[0, 1]], [[2, 3], [4, 5]]]
    for read, grid in zip(episode.numbers("steps/grid"), grids, strict=True):
        np.testing.assert_array_equal(read, grid)


def test_images_and_what_is_none(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    root = write_dataset(
        tmp_path / "made",
        steps={"image": {"image": {"dtype": "uint8", "shape": {"dimensions": ["4", "-1", "3"]}}}},
        metadata={},
        episodes=[{"steps/image": [file.getvalue()] * 2}, {"steps/image": [b"no image"]}, {}],
    )
    dataset = opened(root, tmp_path)
    np.testing.assert_array_equal(dataset.episode(0).images("steps/image"), [pixels, pixels])
    with pytest.raises(BadRecord, match=r"offset \d+: 'steps/image' holds a file that is no image"):
        dataset.episode(1).images("steps/image")
    with pytest.raises(BadRecord, match="lacks the feature 'steps/image'"):
        dataset.episode(2).images("steps/image")


@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(st.floats(width=32, allow_nan=False)))
def test_lists_round_trip(integers, floats):
    read = parse_example(example({"i": np.array(integers, np.int64), "f": np.array(floats, np.float32)}))
    assert read["i"].integers().tolist() == integers
    assert read["f"].floats().tolist() == floats


@given(st.binary(max_size=60), st.integers(1, 3))
def test_noise_is_read_or_refused(data, kind):
    stored = FeatureList(kind, memoryview(data))
    for read in (lambda: parse_example(data), stored.items, stored.floats, stored.integers):
        with suppress(CheckpointError):
            read()


def test_images_of_several_sizes_are_named_and_read_one_at_a_time(tmp_path):
    files = []
    for width in (8, 12):
        file = io.BytesIO()
        Image.new("RGB", (width, 6)).save(file, "PNG")
        files.append(file.getvalue())
    shape = {"image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}}}
    write_dataset(tmp_path / "sizes", {"image": shape}, {}, [{"steps/image": files}])
    episode = opened(tmp_path / "sizes", tmp_path).episode(0)
    assert [episode.images("steps/image", [step]).shape for step in (0, 1)] == [(1, 6, 8, 3), (1, 6, 12, 3)]
    with pytest.raises(BadRecord, match="several sizes"):
        episode.images("steps/image")


@pytest.mark.parametrize("taught", [False, True], ids=["numpy alone", "bfloat16 known"])
def test_features_that_nobody_asks_for_may_be_of_any_kind(tmp_path, taught):
    if taught:
        pytest.importorskip("ml_dtypes")  # importing it lets NumPy know bfloat16
    odd = {
        "embedding": tensor("bfloat16", (512,)),
        "sound": {"pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio", "audio": {}},
        "film": {"pythonClassName": "tensorflow_datasets.core.features.video_feature.Video", "video": {}},
        "maybe": {"pythonClassName": "tensorflow_datasets.core.features.optional_feature.Optional"},
    }
    numbers = {"steps/action": np.ones((3, 7), np.float32)}
    write_dataset(tmp_path / "odd", odd | {"action": tensor("float32", (7,))}, {}, [numbers])
    dataset = opened(tmp_path / "odd", tmp_path)
    assert list(dataset.specs) == ["steps/action"]
    assert dataset.episode(0).numbers("steps/action").shape == (3, 7)
    with pytest.raises(InputError, match="has no tensor 'steps/embedding'"):
        dataset.episode(0).numbers("steps/embedding")


def test_files_behind_links_are_read_and_their_changes_seen(copy, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for file in copy.iterdir():
        (linked / file.name).symlink_to(file)
    before = opened(linked, tmp_path)
    assert len(before) == len(opened(copy, tmp_path)) == 4
    stamp = before.storage.fingerprint(SHARD)
    (copy / SHARD).touch()
    assert before.storage.fingerprint(SHARD) != stamp
    assert opened(linked, tmp_path).episode(0).texts("episode_metadata/file_path")
