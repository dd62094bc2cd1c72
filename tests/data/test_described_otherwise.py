"""Descriptions of datasets with one value changed: they are read, or refused in one sentence, and never crash."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mutations import mutations
from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.rlds.features import parse_features, parse_info
from spatialvla.errors import CheckpointError, InputError

TOP = "observation.images.top"
REAL = Path(__file__).parent / "rlds" / "bridge_orig"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written") / "d"
    features = [Feature(TOP, "video", (16, 16, 3)), Feature("action", "float32", (7,))]
    writer = LeRobotWriter(root, 10, features)
    frames = {TOP: np.zeros((3, 16, 16, 3), np.uint8), "action": np.zeros((3, 7), np.float32)}
    writer.add_episode(frames, "pick")
    writer.finalize()
    return root


def assert_read_or_refused(changes, read, refusals):
    """Each change is read, or raises one of `refusals` with a sentence on one line."""
    wrong = []
    for what, changed in changes:
        try:
            read(changed)
        except refusals as error:
            if "\n" in str(error):
                wrong.append(f"{what}: {error}")
        except Exception as error:
            wrong.append(f"{what}: {type(error).__name__} {error}")
    assert not wrong, "\n".join(wrong[:20])


def test_info_json(written, tmp_path):
    root = Path(shutil.copytree(written, tmp_path / "d"))
    file = root / "meta/info.json"
    content = json.loads(file.read_text())

    def read(changed):
        file.write_text(json.dumps(changed))
        for episode in LeRobotDataset(root):
            assert len(episode) == 3

    assert_read_or_refused(mutations(content, skip=("info",)), read, (CheckpointError, InputError))


@pytest.mark.parametrize(
    ("name", "parse"), [("features.json", parse_features), ("dataset_info.json", parse_info)]
)
def test_rlds(name, parse):
    content = json.loads((REAL / name).read_text())
    assert_read_or_refused(
        mutations(content),
        lambda changed: parse(json.dumps(changed).encode(), name),
        (CheckpointError, InputError),
    )


MAPPING = {
    "image": TOP,
    "action": {
        "indices": [0, 1, 2, 3, 4, 5, 6],
        "convention": "absolute",
        "relative_indices": [0, 1, 2, 3, 4, 5],
    },
    "gripper": {"index": 6, "open": 0, "min": 0.0, "max": 0.08, "commands": False},
    "units": {"meters": 1.0, "radians": 1.0, "rotation": "euler", "frame": "base", "gripper": [0, 1]},
    "intrinsics": {"K": [[20, 0, 8], [0, 20, 8], [0, 0, 1]], "height": 16, "width": 16},
}


def test_mappings():
    FeatureMapping.from_dict(MAPPING)
    assert_read_or_refused(mutations(MAPPING), FeatureMapping.from_dict, (InputError,))


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("action", {"indices": [0, 1, 2, 3, 3, 5, 6]}, "indices names a number twice"),
        ("action", {"relative_indices": [0, 1, 2, 3, 4, 0]}, "relative_indices names a number twice"),
        ("gripper", {"max": float("inf")}, "a finite min below its max"),
        ("gripper", {"min": float("-inf")}, "a finite min below its max"),
        ("gripper", {"min": 0.08}, "a finite min below its max"),
    ],
)
def test_mappings_that_would_move_otherwise(part, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        FeatureMapping.from_dict({**MAPPING, part: {**MAPPING[part], **changes}})
