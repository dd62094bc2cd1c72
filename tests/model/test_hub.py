"""Checkpoints to the Hub and back: what is uploaded, from where it is fetched, and who is told what."""

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

from spatialvla import Observation, Policy, Processor, SpatialVLA
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model import folders, hub
from spatialvla.model.hub import is_hub_id, upload_folder

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A Hub in a folder: repositories/owner/name/branch. Tells what it was asked."""
    asked = {}

    class Api:
        def __init__(self, token=None):
            asked["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            asked["private"] = private
            return f"https://hub/{repo_id}"

        def create_branch(self, repo_id, branch, exist_ok):
            asked["branch"] = branch

        def upload_folder(self, repo_id, folder_path, revision, commit_message):
            target = tmp_path / repo_id / (revision or "main")
            target.mkdir(parents=True, exist_ok=True)
            for file in Path(folder_path).iterdir():
                (target / file.name).write_bytes(file.read_bytes())

    def snapshot_download(repo_id, revision, allow_patterns, token, local_files_only):
        asked["fetched with"] = token
        found = tmp_path / repo_id / (revision or "main")
        if not found.is_dir():
            raise LocalEntryNotFoundError("no")
        return str(found)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(folders, "snapshot_download", snapshot_download)
    return asked


def test_a_policy_goes_to_the_hub_and_comes_back(stand_in):
    model, processor = SpatialVLA.from_pretrained(CHECKPOINT), Processor.from_pretrained(CHECKPOINT)
    address = model.push_to_hub("robots/tiny", token="secret", revision="v2", private=True)
    assert address == "https://hub/robots/tiny"
    assert stand_in == {"token": "secret", "private": True, "branch": "v2"}
    processor.push_to_hub("robots/tiny", revision="v2")
    again = Policy.from_pretrained("robots/tiny", revision="v2", token="other", dataset="tiny_robot/0.1.0")
    assert stand_in["fetched with"] == "other"
    expected = Policy(model, processor, dataset="tiny_robot/0.1.0").predict([Observation(IMAGE, "stop")])
    np.testing.assert_array_equal(again.predict([Observation(IMAGE, "stop")])[0].actions, expected[0].actions)
    with pytest.raises(CheckpointError, match="robots/tiny is not a checkpoint folder"):
        Policy.from_pretrained("robots/tiny", dataset="tiny_robot/0.1.0")


def test_a_failed_upload_is_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="no id of the Hub; write owner/name"):
        upload_folder(tmp_path, "a/b/c")

    class Offline:
        def __init__(self, token=None):
            pass

        def create_repo(self, *_, **__):
            raise self.error

    monkeypatch.setattr(hub, "HfApi", Offline)
    Offline.error = OfflineModeIsEnabled("offline")
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set; unset it"):
        upload_folder(tmp_path, "robots/tiny")
    Offline.error = OSError("connection refused\nand more")
    with pytest.raises(InputError, match=r"\(connection refused\); check the network"):
        upload_folder(tmp_path, "robots/tiny")


def test_ids_and_folders_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    assert is_hub_id("IPEC-COMMUNITY/spatialvla-4b-224-pt")
    assert not is_hub_id("runs/one")
    assert not is_hub_id("/tmp/x")
    assert not is_hub_id("nano")


def test_a_policy_of_lerobots_is_the_one_inside(stand_in, tmp_path):
    """LeRobot's files stand around it, in a folder and on the Hub."""
    model, processor = SpatialVLA.from_pretrained(CHECKPOINT), Processor.from_pretrained(CHECKPOINT)
    for folder in (tmp_path / "run", tmp_path / "robots" / "learned" / "main"):
        processor.save_pretrained(folder / "model")
        model.save_pretrained(folder / "model")
        (folder / "config.json").write_text('{"type": "spatialvla"}')
        for name in (folder, *(["robots/learned"] if "robots" in folder.parts else [])):
            assert folders.resolve_folder(name) == folder / "model"
    assert folders.resolve_folder(CHECKPOINT) == CHECKPOINT


@pytest.mark.parametrize("revision", ["", "..", "../../x", "/etc/passwd", "a/../b", "x@y", "a b", ".git"])
def test_a_revision_never_leads_out_of_what_was_fetched(revision):
    with pytest.raises(CheckpointError, match="is no revision of robots/tiny"):
        folders.resolve_folder(f"robots/tiny@{revision}")
