"""`export --fit-rotations`: the same tokens, and fast rotations decoded to the data's mean."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_policy import SIZE

from spatialvla import Processor
from spatialvla.actions.grids import ActionGrid
from spatialvla.cli.main import main
from spatialvla.data.lerobot import Feature, LeRobotWriter

BRIDGE = Path(__file__).parents[1] / "data" / "rlds" / "bridge_orig"
TURN = 0.5


@pytest.fixture(scope="module")
def turning(tmp_path_factory):
    """A dataset of which each second step turns by TURN about x."""
    root = tmp_path_factory.mktemp("data") / "squares"
    features = [
        Feature("observation.images.front", "image", (SIZE, SIZE, 3)),
        Feature("action", "float32", (7,)),
    ]
    actions = np.zeros((20, 7), np.float32)
    actions[::2, 3] = TURN * np.array([1, -1] * 5)
    frames = {"observation.images.front": np.zeros((20, SIZE, SIZE, 3), np.uint8), "action": actions}
    writer = LeRobotWriter(root, fps=20, features=features)
    writer.add_episode(frames, "turn")
    writer.finalize()
    return root


@pytest.fixture
def policy(start, tmp_path):
    """One whose rotations reach half of that to either side."""
    processor = Processor.from_pretrained(start)
    q99 = np.array([1, 1, 1, TURN / 2, TURN / 2, TURN / 2, 1])
    q01 = -q99
    q01[6] = 0
    statistics = {
        key: replace(one, q01=q01, q99=q99, stored=None) for key, one in processor.statistics.items()
    }
    folder = tmp_path / "policy"
    main(["export", "--policy", str(start), "--out", str(folder)])
    replace(processor, statistics=statistics, grid=ActionGrid.uniform(processor.grid.bins)).save_pretrained(
        folder
    )
    return folder


def test_rotations_are_decoded_as_far_as_they_go(policy, turning, tmp_path):
    out = tmp_path / "out"
    options = ["--fit-rotations", "roll", "--dataset", str(turning), "--camera", "observation.images.front"]
    main(["export", "--policy", str(policy), *options, "--out", str(out)])
    turn = np.array([0, 0, 0, TURN, 0, 0, 1.0])
    before, after = Processor.from_pretrained(policy), Processor.from_pretrained(out)
    tokens, again = (one.grid.encode(one.statistics["squares"].normalize(turn)) for one in (before, after))
    np.testing.assert_array_equal(tokens, again)
    decoded = [one.statistics["squares"].denormalize(one.grid.decode(tokens))[3] for one in (before, after)]
    assert decoded[0] < TURN / 2
    assert decoded[1] == pytest.approx(TURN)
    weights = [load_file(folder / "model.safetensors") for folder in (policy, out)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def refused(capsys, *options):
    with pytest.raises(SystemExit):
        main(["export", *options])
    return " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_fitted_is_said(policy, turning, start, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out"), "--fit-rotations", "roll", "yaw"]
    assert "--fit-rotations needs data" in refused(capsys, "--policy", str(policy), *out)
    other = refused(capsys, "--policy", "nano", *out, "--dataset", str(BRIDGE))
    assert "bridge_orig/1.0.0's actions are not the motions of libero_spatial" in other
    data = ["--dataset", str(turning), "--camera", "observation.images.front"]
    assert "as far to either side" in refused(capsys, "--policy", str(start), *out, *data)
    assert not (tmp_path / "out").exists()
