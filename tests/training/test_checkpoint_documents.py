"""The documents in a run's checkpoints: damaged ones are seen, and of another kind they are one sentence."""

import json

import pytest
from test_checkpoints import moment, trained

from mutations import mutations
from spatialvla.errors import CheckpointError
from spatialvla.training.checkpoints.checkpointer import FOLDER, Checkpointer


@pytest.fixture
def folder(tmp_path):
    return tmp_path / FOLDER


def test_flips_in_documents_are_seen_or_change_nothing(folder):
    checkpointer = Checkpointer(folder, keep=1)
    path = checkpointer.save(trained(), moment())
    for name in ("state.json", "config.json", "grid.json"):
        whole, refused = (path / name).read_bytes(), 0
        for position in range(0, len(whole), 3):
            changed = whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :]
            (path / name).write_bytes(changed)
            try:
                found = checkpointer.moment(path)
            except CheckpointError:
                refused += 1
            else:
                assert {"config", "grid"} <= set(found.documents)
                assert found.step == 1
                assert found.documents["config"]["steps"] == 3
                assert found.documents["grid"]["edges"] == [0.5, 1.0]
        assert refused > len(whole) / 6
        (path / name).write_bytes(whole)


def test_a_state_of_another_kind_is_one_sentence(folder):
    checkpointer = Checkpointer(folder, keep=1)
    path = checkpointer.save(trained(), moment())
    record = json.loads((path / "state.json").read_text())
    del record["content_crc32c"]
    for what, changed in mutations(record, skip=("identity",)):
        (path / "state.json").write_text(json.dumps(changed))
        try:
            assert isinstance(checkpointer.moment(path).step, int), what
        except CheckpointError as error:
            sentence = str(error)
            assert "step_00000001" in sentence.splitlines()[0], what
