"""The real lerobot opens what LeRobotWriter wrote."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter

PYTHON = os.environ.get("SPATIALVLA_LEROBOT_PYTHON")
CAMERA, DEPTH = "observation.images.agentview", "observation.depth.agentview"
DEPTH_VIDEO = "observation.images.agentview_depth"


@pytest.mark.slow
@pytest.mark.skipif(
    not PYTHON, reason="SPATIALVLA_LEROBOT_PYTHON names no Python >= 3.12 with lerobot[dataset]==0.6.1"
)
def test_lerobot_sees_what_we_wrote(tmp_path):
    rng = np.random.default_rng(0)
    lengths, tasks = (12, 20, 7), ("pick up the bowl", "open the drawer", "pick up the bowl")
    writer = LeRobotWriter(
        tmp_path / "dataset",
        20,
        [
            Feature(CAMERA, "video", (64, 96, 3)),
            Feature("observation.images.wrist", "image", (32, 48, 3)),
            Feature(DEPTH, "depth", (64, 96)),
            Feature(DEPTH_VIDEO, "depth_video", (64, 96)),
            Feature("observation.intrinsics", "float32", (3, 3)),
            Feature("observation.state", "float32", (8,)),
            Feature("action", "float32", (7,), ("x", "y", "z", "roll", "pitch", "yaw", "gripper")),
            Feature("success", "bool", (1,)),
        ],
        robot_type="franka",
    )
    episodes = []
    for length, task in zip(lengths, tasks, strict=True):
        level = rng.integers(0, 256, (length, 1, 1, 3), dtype=np.uint8)
        episode = {
            CAMERA: np.broadcast_to(level, (length, 64, 96, 3)),
            "observation.images.wrist": rng.integers(0, 256, (length, 32, 48, 3), dtype=np.uint8),
            DEPTH: rng.uniform(0.1, 5.0, (length, 64, 96)).astype(np.float32),
            DEPTH_VIDEO: rng.uniform(0.1, 5.0, (length, 64, 96)).astype(np.float32),
            "observation.intrinsics": rng.normal(size=(length, 3, 3)).astype(np.float32),
            "observation.state": rng.normal(size=(length, 8)).astype(np.float32),
            "action": rng.normal(size=(length, 7)).astype(np.float32),
            "success": np.arange(length) == length - 1,
        }
        episodes.append(episode)
        writer.add_episode(episode, task)
    writer.finalize()

    numbers = range(0, sum(lengths), 3)
    script = Path(__file__).parent / "open_with_lerobot.py"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [str(PYTHON), str(script), str(tmp_path / "dataset"), *map(str, numbers)]
    seen = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)

    assert (seen["episodes"], seen["frames"], seen["fps"]) == (3, 39, 20)
    assert seen["tasks"] == ["pick up the bowl", "open the drawer"]
    assert seen["lengths"] == list(lengths)
    assert set(seen["stats"]) == set(LeRobotDataset(tmp_path / "dataset").features)
    firsts = np.cumsum([0, *lengths])
    for number in numbers:
        item = seen["items"][str(number)]
        index = int(np.searchsorted(firsts, number, side="right")) - 1
        row = number - firsts[index]
        expected = {name: value[row] for name, value in episodes[index].items()}
        assert (item["episode_index"], item["frame_index"], item["task"]) == (index, row, tasks[index])
        assert item["timestamp"] == pytest.approx(row / 20)
        for name in ("observation.intrinsics", "observation.state", "action", "success"):
            np.testing.assert_allclose(item[name], expected[name], rtol=1e-6)
        assert np.abs(np.array(item[CAMERA]) - expected[CAMERA][::16, ::16]).max() <= 6
        np.testing.assert_array_equal(
            item["observation.images.wrist"], expected["observation.images.wrist"][::16, ::16]
        )
        np.testing.assert_allclose(item[DEPTH], expected[DEPTH][::16, ::16] * 1000, atol=0.51)
        # Half a step of 2.8 mm at 5 m, rounded to millimeters.
        np.testing.assert_allclose(item[DEPTH_VIDEO], expected[DEPTH_VIDEO][::16, ::16] * 1000, atol=1.91)
