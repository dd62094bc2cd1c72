"""JSON files: what is refused in one sentence, and damage that a checksum shows."""

import json
import random

import pytest

from spatialvla.common.json_files import CHECKSUM, parse_value, read_json, write_json
from spatialvla.errors import CheckpointError

CONTENT = {
    "a": [1, 2.5, None, True],
    "text": "naïve — 拾 \ud800",
    "deep": {"b": {"c": []}},
    "nan": float("inf"),
}


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a":' * 70 + "1" + "}" * 70],
    ids=["unfinished", "complete", "just too deep"],
)
def test_what_is_nested_too_deeply_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"a\.json is not valid JSON \(it is nested too deeply\); copy"):
        read_json(tmp_path / "a.json")
    assert parse_value('{"a":' * 60 + "1" + "}" * 60)


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"episodes": [{"success": false, "steps": 3, "success": true}]}')
    with pytest.raises(CheckpointError, match="the entry 'success' is there twice"):
        read_json(file)
    file.write_text('{"a": {"c": 1}, "b": {"c": 1}}')
    assert read_json(file) == {"a": {"c": 1}, "b": {"c": 1}}


@pytest.mark.parametrize("digits", [41, 5000])
def test_integers_without_end_are_refused(tmp_path, digits):
    (tmp_path / "a.json").write_text('{"a": ' + "7" * digits + "}")
    with pytest.raises(CheckpointError, match=rf"not valid JSON \(it holds an integer of {digits} digits\)"):
        read_json(tmp_path / "a.json")


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(CheckpointError, match="has 1000000 MB, which no file of its kind has"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("checksum", [False, True])
def test_what_is_written_is_read(tmp_path, checksum):
    write_json(tmp_path / "a.json", CONTENT, checksum=checksum)
    assert read_json(tmp_path / "a.json") == CONTENT
    assert (CHECKSUM in json.loads((tmp_path / "a.json").read_text())) == checksum


def test_flipped_bits_are_seen_or_change_nothing(tmp_path):
    path, draw = tmp_path / "a.json", random.Random(0)
    write_json(path, CONTENT, checksum=True)
    whole, sentences = path.read_bytes(), []
    for position in range(len(whole)):
        path.write_bytes(_flipped(whole, position, 1 << draw.randrange(8)))
        try:
            assert {k: v for k, v in read_json(path).items() if k in CONTENT} == CONTENT
        except CheckpointError as error:
            sentences.append(str(error))
    assert len(sentences) > 0.8 * len(whole)
    assert all(str(path) in sentence for sentence in sentences)


def test_a_document_edited_on_purpose_is_read_without_its_checksum(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1}, checksum=True)
    edited = json.loads(path.read_text()) | {"a": 2}
    path.write_text(json.dumps(edited))
    with pytest.raises(
        CheckpointError, match="or remove its entry content_crc32c if it was edited on purpose"
    ):
        read_json(path)
    del edited[CHECKSUM]
    path.write_text(json.dumps(edited))
    assert read_json(path) == {"a": 2}


def _flipped(data: bytes, position: int, bits: int) -> bytes:
    return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]
