"""The tables of a LeRobot dataset as people have them: edited, converted, from other writers, damaged."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spatialvla.data.augmentation import Augmentation
from spatialvla.data.batches import Batches
from spatialvla.data.convert import convert
from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.metadata import read_tasks
from spatialvla.data.samples import ReadOptions
from spatialvla.data.sources import open_source
from spatialvla.data.survey import survey
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError
from spatialvla.processor import Processor

TOP = "observation.images.top"
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
WORDS = ("pick up the cube", "open the drawer")
LENGTH = 20


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written") / "d"
    writer = LeRobotWriter(root, 10, [Feature(TOP, "image", (64, 64, 3)), Feature("action", "float32", (7,))])
    rng = np.random.default_rng(0)
    for task in WORDS:
        frames = np.zeros((LENGTH, 64, 64, 3), np.uint8)
        writer.add_episode({TOP: frames, "action": rng.normal(0, 0.01, (LENGTH, 7)).astype(np.float32)}, task)
    writer.finalize()
    return root


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "d")


def edit(path, name, values):
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.names.index(name), name, values), path)


def edit_rows(root, **changes):
    rows = pq.read_table(root / EPISODES).to_pylist()
    rows[0].update(changes)
    pq.write_table(pa.Table.from_pylist(rows), root / EPISODES)


def edit_info(root, **features):
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] |= features
    (root / "meta/info.json").write_text(json.dumps(info))


def test_each_frame_is_trained_with_its_own_task(root):
    edit(root / DATA, "task_index", pa.array([0] * 10 + [1] * 30))
    episode = open_source(root).episode(0)
    assert episode.instruction == WORDS[0]
    assert [episode.instruction_at(step) for step in (0, 9, 10, 19)] == [WORDS[0]] * 2 + [WORDS[1]] * 2
    mixture = TrainingMixture.open([open_source(root)])
    assert mixture.instructions() == sorted(WORDS)
    known = Processor.from_pretrained("nano")
    processor = replace(known, statistics=mixture.statistics(), default_dataset=None)
    batches = Batches(mixture, mixture.training, processor, ReadOptions(Augmentation.off()))
    numbers = list(range(2 * LENGTH))
    batch = batches.batch(numbers)
    for number, episode_number, step in zip(numbers, batch.episode, batch.step, strict=True):
        expected = WORDS[int(episode_number == 1 or step >= 10)]
        words = batches._sample_or_next(number, batches.draws(np.array([number])), 0).prompt
        assert expected.lower() in words.lower()


def test_a_mapping_may_say_one_instruction_for_all(root):
    edit(root / DATA, "task_index", pa.array([0] * 10 + [1] * 30))
    episode = open_source(root, mapping=FeatureMapping(instruction="stack")).episode(0)
    assert {episode.instruction_at(step) for step in range(LENGTH)} == {"stack"}


def test_tasks_renamed_in_the_table_of_tasks_alone_are_what_frames_say(root):
    edit(root / "meta/tasks.parquet", "task", pa.array(["take the red cube", WORDS[1]]))
    assert open_source(root).episode(0).instruction == "take the red cube"
    assert LeRobotDataset(root).instruction(0) == "take the red cube"


def test_episodes_whose_tasks_are_a_text(root):
    rows = pq.read_table(root / EPISODES).to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"tasks": row["tasks"][0]} for row in rows]), root / EPISODES)
    assert open_source(root).episode(0).instruction == WORDS[0]


def test_a_frame_of_a_task_that_is_not_there_is_damage(root):
    edit(root / DATA, "task_index", pa.array([0] * 10 + [7] * 30))
    with pytest.raises(CheckpointError, match=r"frames of task 7; meta names the tasks 0 to 1"):
        open_source(root).episode(0)


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("name", ["task", "__index_level_0__"])
def test_tasks_as_pandas_and_polars_write_them(tmp_path, kind, name):
    (tmp_path / "meta").mkdir()
    texts = pa.array(["place", "pick"]).cast(kind)
    pq.write_table(pa.table({"task_index": [1.0, 0.0], name: texts}), tmp_path / "meta/tasks.parquet")
    assert read_tasks(tmp_path) == ("pick", "place")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([[0.1] * 7] * 39 + [None], "in place of 7"),
        ([[0.1] * 7] * 39 + [[0.1] * 6], "in place of 7"),
        ([[0.1] * 7] * 38 + [[0.1] * 6, [0.1] * 8], "in place of 7"),
        ([[0.1] * 8] * 40, "lists of 8 numbers in place of 7"),
        ([["0.1"] * 7] * 40, "string in place of float32"),
    ],
)
def test_rows_that_do_not_fit_are_damage_that_can_be_skipped(root, rows, what):
    edit(root / DATA, "action", pa.array(rows))
    with pytest.raises(CheckpointError, match=rf"file-000\.parquet has rows of 'action'.*{what}"):
        survey(open_source(root))
    found = survey(open_source(root), on_bad="skip")
    assert all("'action'" in reason for reason in found.damaged)
    assert len(found.damaged) == int((found.lengths == 0).sum()) > 0


def test_a_table_of_episodes_whose_numbers_became_floats(root):
    rows = pq.read_table(root / EPISODES).to_pylist()
    keys = [key for key in rows[0] if key.endswith("_index") or key == "length"]
    pq.write_table(
        pa.Table.from_pylist([row | {key: float(row[key]) for key in keys} for row in rows]), root / EPISODES
    )
    assert open_source(root).episode(1).images([3]).shape == (1, 64, 64, 3)
    for value in (float("nan"), 0.5, None, float("inf")):
        edit_rows(root, **{"data/chunk_index": value})
        with pytest.raises(CheckpointError, match=r"file-000\.parquet has a row that cannot be used"):
            open_source(root)


@pytest.mark.parametrize("name", ["episode_index", "length", "dataset_from_index"])
@pytest.mark.parametrize("value", [2.0**63, 1e300, float("nan"), -1.0])
def test_numbers_that_no_dataset_counts_to(root, name, value):
    edit_rows(root, **{name: value})
    with pytest.raises(CheckpointError, match=r"file-000\.parquet|meta"):
        open_source(root).episode(0)


@pytest.mark.parametrize("value", [2.0**63, 1e300, float("nan"), -1.0])
def test_times_that_no_video_has(tmp_path, value):
    root = Path(shutil.copytree(Path(__file__).parent / "lerobot_v3", tmp_path / "d"))
    column = next(name for name in pq.read_schema(root / EPISODES).names if name.endswith("/from_timestamp"))
    edit_rows(root, **{column: value})
    with pytest.raises(CheckpointError, match="is no time in a video"):
        LeRobotDataset(root)


@pytest.mark.parametrize(("file", "name"), [(EPISODES, "length"), (TASKS, "task"), (DATA, "action")])
def test_two_columns_of_one_name(root, file, name):
    table = pq.read_table(root / file)
    pq.write_table(table.append_column(name, table[name]), root / file)
    with pytest.raises(CheckpointError, match=rf"has two columns called '{name}'"):
        open_source(root).episode(0)


@pytest.mark.parametrize(
    ("name", "spec", "column"),
    [
        ("observation.images.infrared", {"dtype": "image", "shape": [8, 8, 1]}, pa.array([b""] * 40)),
        ("success", {"dtype": "bool", "shape": []}, pa.array([True] * 40)),
        (
            "observation.tactile",
            {"dtype": "float32", "shape": [0]},
            pa.array([[]] * 40, pa.list_(pa.float32())),
        ),
        ("observation.text", {"dtype": "language", "shape": [1]}, pa.array([""] * 40)),
        ("observation.touch", {"dtype": "float32", "shape": [1] * 6}, pa.array([0.0] * 40)),
        (
            "observation.depth",
            {"dtype": "image", "shape": [], "info": {"is_depth_map": True}},
            pa.array([0] * 40),
        ),
    ],
)
def test_features_that_nobody_asks_for_may_be_of_any_kind(root, name, spec, column):
    edit_info(root, **{name: {**spec, "names": None}})
    pq.write_table(pq.read_table(root / DATA).append_column(name, column), root / DATA)
    assert len(open_source(root).episode(0)) == LENGTH


def test_info_without_the_columns_that_all_datasets_have(root):
    info = json.loads((root / "meta/info.json").read_text())
    del info["features"]["task_index"]
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(
        CheckpointError, match=r"info\.json is not a LeRobot description \(it lists no task_index"
    ):
        open_source(root)


def as_v2(root, words="greife die Tüte", before=b"", between=b""):
    """The first episode in format v2."""
    pq.write_table(
        pq.read_table(root / DATA).slice(0, LENGTH), root / "data/chunk-000/episode_000000.parquet"
    )
    info = json.loads((root / "meta/info.json").read_text())
    path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info |= {"codebase_version": "v2.1", "data_path": path, "total_episodes": 1}
    (root / "meta/info.json").write_bytes(before + json.dumps(info).encode())
    for file, row in (
        ("tasks", {"task_index": 0, "task": words}),
        ("episodes", {"episode_index": 0, "tasks": [words], "length": LENGTH}),
    ):
        text = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        (root / f"meta/{file}.jsonl").write_bytes(before + between + text + between)
    return root


def test_json_lines_with_blank_lines_a_byte_order_mark_and_line_separators(root):
    words = "pick\u2028and place\u0085"
    as_v2(root, words, before=b"\xef\xbb\xbf", between=b"\n \r\n")
    assert LeRobotDataset(root).instruction(0) == words
    assert open_source(root).episode(0).instruction == words.strip()


def test_json_is_utf_8_whatever_the_locale(root, tmp_path):
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", tmp_path / "de_DE.ISO-8859-1"],
        capture_output=True,
        check=False,
    )
    code = f"""
import locale
from spatialvla.data.lerobot import LeRobotDataset
print(locale.getpreferredencoding(False), ascii(LeRobotDataset({str(as_v2(root))!r}).instruction(0)))
"""
    environment = {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    encoding, _, words = run.stdout.decode("ascii").strip().partition(" ")
    if encoding.upper() == "UTF-8":
        pytest.skip(f"there is no such locale here: {made.stderr.decode()[-80:]}")
    assert words == ascii("greife die Tüte")


def test_a_length_shorter_than_an_episodes_own_file_is_damage(root):
    as_v2(root)
    path = root / "meta/episodes.jsonl"
    path.write_text(
        path.read_text(encoding="utf-8").replace(f'"length": {LENGTH}', '"length": 15'), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match="20 frames of episode 0, whose length is 15"):
        open_source(root).episode(0)


def test_an_episode_of_several_tasks_is_written_and_converted_with_each_frames_own(root, tmp_path):
    edit(root / DATA, "task_index", pa.array([1] * 5 + [0] * 15 + [1] * 20))
    convert(open_source(root), tmp_path / "again")
    converted = open_source(tmp_path / "again")
    for index in range(2):
        ours, theirs = converted.episode(index), open_source(root).episode(index)
        assert [ours.instruction_at(t) for t in range(LENGTH)] == [
            theirs.instruction_at(t) for t in range(LENGTH)
        ]
    rows = pq.read_table(tmp_path / "again" / EPISODES).to_pylist()
    assert [row["tasks"] for row in rows] == [[WORDS[1], WORDS[0]], [WORDS[1]]]


def test_columns_that_info_lists_and_the_files_lack_are_left_out(root):
    listed = {"dtype": "float32", "shape": [3], "names": None}
    camera = {"dtype": "video", "shape": [64, 64, 3], "names": None}
    edit_info(root, **{"observation.force": listed, "observation.images.left": camera})
    source = open_source(root)
    assert "observation.force" not in source.episode(1).columns
    assert len(source.episode(0).images([0, 3])) == 2
    sentence = "Its info.json lists observation.force, observation.images.left, which the files do not hold."
    assert source.doubts == (sentence,)
    with pytest.raises(InputError, match=r"no feature of numbers 'observation.force'.* Its info.json lists"):
        open_source(root, mapping=FeatureMapping.from_dict({"action": {"feature": "observation.force"}}))


def test_a_column_that_all_datasets_have_is_not_left_out(root):
    table = pq.read_table(root / DATA)
    pq.write_table(table.drop_columns(["timestamp"]), root / DATA)
    with pytest.raises(
        CheckpointError, match="lacks the column 'timestamp', which all LeRobot datasets have"
    ):
        open_source(root)


def test_a_first_file_that_cannot_be_read_does_not_hide_the_rest(root):
    """What columns there are is then told by another file, or by info.json."""
    (root / DATA).write_bytes(b"damaged")
    source = open_source(root)
    assert source.doubts == ()
    with pytest.raises(CheckpointError, match="not a parquet file"):
        source.episode(0)
