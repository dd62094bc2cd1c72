"""`spatialvla data`, as it is typed."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spatialvla.actions.bins import Bins
from spatialvla.actions.statistics_file import read_statistics
from spatialvla.cli.main import main
from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter
from spatialvla.training.config import DatasetConfig
from spatialvla.training.feed.datasets import open_mixture
from spatialvla.training.parallel.world import join_world
from spatialvla.training.recipes import nano, pretrain
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.build import build, network_config

DATA = Path(__file__).parents[1] / "data"
RLDS = DATA / "rlds" / "bridge_orig"
LEROBOT = DATA / "lerobot_v3"
DEPTH_VIDEO = DATA / "lerobot_v3_depth"
CAMERA = ("--camera", "observation.images.top")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


def run(*arguments):
    main(["data", *map(str, arguments)])


def test_inspect_prints_and_draws_rlds(capsys, tmp_path):
    run("inspect", "--dataset", RLDS, "--out", tmp_path / "pictures")
    out = capsys.readouterr().out
    assert "bridge_orig/1.0.0: 4 episodes, 30 steps at 5 Hz" in out
    assert "2  put the red block on plate 0" in out
    assert "Camera image: 256x256, fx 249.4, fy 332.6" in out
    # The sample's numbers are drawn at random, and as motions of an arm they are doubted.
    warnings = [line for line in out.splitlines() if line.startswith("Warning")]
    assert [line.split(" reaches")[0] for line in warnings] == [
        "Warning: the translation",
        "Warning: the rotation",
        *warnings[2:],
    ]
    assert "the camera 'image' should hardly see the gripper in 2 of the 4 episodes" in warnings[2]
    assert "the intrinsics of the camera 'secondary' are unknown in 4 of 4 episodes" in warnings[3]
    actions, state = out.split("State of the arm")
    axes = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    rows = {
        words[0]: words[1:] for line in actions.splitlines() if (words := line.split()) and words[0] in axes
    }
    assert tuple(rows) == axes
    assert {len(cells) for cells in rows.values()} == {6}
    assert sum(len(line.split()) == 7 for line in state.splitlines()) > 6
    assert [float(cell) for cell in rows["gripper"]] == [0, 1, 0.5, 0.5, 0, 1]
    for name in ("actions.png", "frames.png"):
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert picture.width > 600


def test_inspect_reads_what_can_be_read_of_damaged_shards(capsys, tmp_path):
    copy = tmp_path / "bridge_orig"
    copy.mkdir()
    for path in RLDS.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (shard,) = copy.glob("*00001-of-00002")
    data = bytearray(shard.read_bytes())
    data[len(data) // 4] ^= 1
    shard.write_bytes(data[:-100])
    run("inspect", "--dataset", copy)
    out = capsys.readouterr().out
    lines = out.splitlines()
    at = lines.index("Left out: parts of the files that are damaged, or say that they failed (1)")
    assert "00001-of-00002 ends inside the record" in lines[at + 1]
    assert lines[at + 2] == "Left out with --on-bad skip: damaged episodes (1)"
    assert "00001-of-00002: the record at offset 0 is damaged" in lines[at + 3]


def test_inspect_checks_instructions_and_pictures_on_request(capsys, tmp_path):
    writer = LeRobotWriter(
        tmp_path / "d",
        10,
        [Feature("observation.images.front", "image", (8, 8, 3)), Feature("action", "float32", (7,))],
    )
    for words in ("wipe", "<image>"):
        frames = np.zeros((6, 8, 8, 3), np.uint8)
        writer.add_episode(
            {"observation.images.front": frames, "action": np.eye(6, 7, dtype=np.float32)}, words
        )
    writer.finalize()
    run("inspect", "--dataset", tmp_path / "d", "--policy", "nano", "--all-pictures")
    lines = capsys.readouterr().out.splitlines()
    (at,) = (n for n, line in enumerate(lines) if line.startswith("Left out"))
    assert lines[at] == "Left out with --on-bad skip: episodes with an instruction that cannot be used (1)"
    assert lines[at + 1].startswith("  Episode 1: ")


def test_inspect_says_so_where_no_picture_can_be_read(capsys, tmp_path):
    damaged = Path(shutil.copytree(LEROBOT, tmp_path / "damaged"))
    for video in damaged.rglob("*.mp4"):
        video.write_bytes(b"no video")
    run("inspect", "--dataset", damaged, *CAMERA)
    assert "Camera image: of the pictures looked at none can be read, intrinsics" in capsys.readouterr().out


def test_inspect_warns_of_what_the_sample_of_lerobot_lacks(capsys):
    run("inspect", "--dataset", LEROBOT, *CAMERA, "--episodes", "2")
    out = capsys.readouterr().out
    assert "lerobot_v3: 2 episodes, 120 steps at 5 Hz" in out
    assert "Camera image: 256x256, intrinsics unknown" in out
    assert "Camera wrist: 256x256, intrinsics unknown" in out
    assert "Units of actions: unknown meters, radians, rotation, frame (a mapping's" in out
    assert "Warning: the gripper lies outside of [0, 1]" in out
    assert "Warning: the intrinsics of the camera 'image' are unknown in 2 of 2 episodes" in out


def test_inspect_takes_a_mapping_and_sees_depth(capsys, tmp_path):
    features = [
        Feature("observation.images.front", "video", (16, 16, 3)),
        Feature("observation.depth.front", "depth", (16, 16)),
        Feature("action", "float32", (7,)),
    ]
    writer = LeRobotWriter(tmp_path / "d", 10, features)
    frames = {
        features[0].name: np.full((6, 16, 16, 3), np.arange(0, 240, 40)[:, None, None, None], np.uint8),
        features[1].name: np.linspace(0.5, 1.5, 6 * 16 * 16, dtype=np.float32).reshape(6, 16, 16),
        "action": np.linspace(-1, 1, 42, dtype=np.float32).reshape(6, 7) * np.float32([*[0.1] * 6, 1]),
    }
    writer.add_episode(frames, "wipe")
    writer.finalize()
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "gripper: {min: -1, open: 0}\nintrinsics: {K: [[20, 0, 8], [0, 20, 8], [0, 0, 1]], height: 16, width: 16}"
    )
    run("inspect", "--dataset", tmp_path / "d", "--mapping", mapping)
    out = capsys.readouterr().out
    assert "Camera: 16x16, with depth, fx 20.0, fy 20.0, cx 8.0, cy 8.0" in out
    assert re.search(
        r"Depth: 16x16, 0\.50\d to 1\.49 m \(q01 to q99\), 0\.0% not measured, in the frames", out
    )
    assert "Warning" not in out


def test_convert_writes_a_dataset(capsys, tmp_path):
    run("convert", "--dataset", RLDS, "--out", tmp_path / "out")
    assert f"Wrote 4 episodes to {tmp_path / 'out'}" in capsys.readouterr().out
    dataset = LeRobotDataset(tmp_path / "out")
    assert (len(dataset), dataset.fps) == (4, 5)
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert info["features"]["action"]["names"][-1] == "gripper"


@pytest.mark.parametrize("steps", ["none", "log", "linear"])
def test_convert_stores_depth_as_it_is_told(tmp_path, steps):
    """From LeRobot's depth video to each kind; its steps are 1.5 mm at most up to 2 m, as are those to 6 m."""
    told = () if steps == "none" else ("--depth-video", steps, "--depth-range", "0.05", "6")
    camera = ("--camera", "observation.images.top")
    run("convert", "--dataset", DEPTH_VIDEO, *camera, "--out", tmp_path / "out", *told)
    feature = LeRobotDataset(tmp_path / "out").features["observation.depth.main"]
    assert feature.dtype == ("depth" if steps == "none" else "depth_video")
    assert feature.info.get("video.use_log") == {"none": None, "log": True, "linear": False}[steps]
    theirs, ours = LeRobotDataset(DEPTH_VIDEO), LeRobotDataset(tmp_path / "out")
    for original, written in zip(theirs, ours, strict=True):
        expected = original.frames("observation.images.top_depth")
        read = written.frames("observation.depth.main")
        assert ((read == 0) == (expected == 0)).all()
        np.testing.assert_allclose(read, expected, atol=0.5e-3 if steps == "none" else 1.5e-3)


def test_statistics_of_two_datasets_are_written_for_a_run_to_take(capsys, tmp_path):
    for name, reach in (("low", 0.1), ("high", 0.4)):
        features = [
            Feature("observation.images.front", "image", (8, 8, 3)),
            Feature("observation.state", "float32", (8,)),
            Feature("action", "float32", (7,)),
        ]
        writer = LeRobotWriter(tmp_path / name, 10, features)
        actions = np.linspace([-reach] * 7, [0.05] * 7, 50, dtype=np.float32)
        frames = np.zeros((50, 8, 8, 3), np.uint8)
        states = np.tile(np.arange(8, dtype=np.float32), (50, 1)) + actions[:, :1]
        writer.add_episode({features[0].name: frames, features[1].name: states, "action": actions}, "push")
        writer.finalize()
    file, both = tmp_path / "statistics.json", (tmp_path / "low", tmp_path / "high")
    run("statistics", "--dataset", *both, "--symmetric-rotations", "--out", file)
    assert f"Wrote statistics of 2 episodes, 100 steps to {file}" in capsys.readouterr().out
    found = read_statistics(file, ["low", "high"])
    for statistics in found.values():
        # Of 100 steps, 50 of which reach down to -0.4.
        assert statistics.actions.q01[0] == pytest.approx(-0.39, abs=0.01)
        assert statistics.actions.q99[0] == pytest.approx(0.05, abs=0.01)
        np.testing.assert_array_equal(statistics.actions.q99[3:6], -statistics.actions.q01[3:6])
        assert statistics.states is not None
        assert statistics.states.q01[2] == pytest.approx(2 - 0.39, abs=0.01)
    config = replace(
        nano(), datasets=tuple(DatasetConfig(str(path)) for path in both), statistics=file, in_memory=False
    )
    with join_world("cpu") as world:
        mixture = open_mixture(config, network_config(config), world, Progress(config, None))
    assert {statistics.q01[0] for statistics in mixture.statistics().values()} == {
        found["low"].actions.q01[0]
    }


@pytest.mark.parametrize("verb", ["inspect", "convert"])
def test_a_camera_that_no_episode_has_is_refused(verb, capsys, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        run(verb, "--dataset", LEROBOT, *CAMERA, "--cameras", "wirst", "--out", out)
    assert "None of the datasets has the camera 'wirst' (lerobot_v3)" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("count", [0, -2])
def test_inspect_looks_at_one_episode_at_least(count, capsys):
    with pytest.raises(SystemExit):
        run("inspect", "--dataset", LEROBOT, *CAMERA, "--episodes", count)
    assert f"episodes must be at least 1, not {count}" in capsys.readouterr().err


def test_statistics_need_no_picture(tmp_path):
    """Of several cameras none is the first, the mapping's others may be any, and no video is there."""
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("cameras: {first: observation.images.top}\ncalibration: nowhere.yaml\n")
    blind = Path(shutil.copytree(LEROBOT, tmp_path / "blind"))
    shutil.rmtree(blind / "videos")
    run("statistics", "--dataset", LEROBOT, *CAMERA, "--out", tmp_path / "seen.json")
    run("statistics", "--dataset", blind, "--workers", 2, "--out", tmp_path / "unseen.json")
    run("statistics", "--dataset", blind, "--mapping", mapping, "--out", tmp_path / "mapped.json")
    seen, unseen, mapped = ((tmp_path / f"{name}.json").read_bytes() for name in ("seen", "unseen", "mapped"))
    assert seen == unseen == mapped


def test_grid_prints_every_dimension_and_draws(capsys, tmp_path):
    run("grid", "--dataset", LEROBOT, *CAMERA, "--out", tmp_path / "grid.png", "--bins.theta", 3)
    rows = {line.split()[1]: line.split() for line in capsys.readouterr().out.splitlines() if "│" in line}
    cells = ["theta", "phi", "r", "roll", "pitch", "yaw", "fitted", "uniform"]
    assert list(rows)[: len(cells)] == cells
    clipped = {name: row for name, row in rows.items() if name not in cells or "%" in row[3]}
    assert "gripper" not in clipped
    # 1 % at either end, as q01 and q99 say.
    assert 0 < float(clipped["x"][3].rstrip("%")) < 10
    assert rows["theta"][7] == "3"
    for kind in ("fitted", "uniform"):
        error, offset = map(float, rows[kind][3:6:2])
        assert 0 <= offset <= error < 2
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 800


def test_datasets_are_found_in_the_cache_of_lerobot(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_HOME", str(LEROBOT.parent))
    run("grid", "--dataset", LEROBOT.name, *CAMERA, "--out", tmp_path / "grid.png")
    assert LEROBOT.name in capsys.readouterr().out


@pytest.mark.parametrize(("recipe", "made"), [("train", nano), ("pretrain", pretrain)])
def test_grid_shows_the_grid_that_a_run_makes(monkeypatch, tmp_path, recipe, made):
    drawn = []

    def plot_grid(grid, actions, title):
        drawn.append(grid)
        return b""

    monkeypatch.setattr("spatialvla.viz.action_grid.plot_grid", plot_grid)
    run("grid", "--dataset", RLDS, "--recipe", recipe, "--out", tmp_path / "grid.png", "--workers", 0)
    # The network is small in both: its size does not change the grid, whose bins are the recipe's.
    config = replace(made(), preset="nano", datasets=(DatasetConfig(str(RLDS)),), workers=0)
    with join_world("cpu") as world:
        network = network_config(config)
        mixture = open_mixture(config, network, world, Progress(config, None))
    if recipe == "pretrain":
        assert drawn == [mixture.fit_grid(Bins(), min_sigma=0.5)]
    else:
        _, processor = build(replace(config, depth="sensor"), mixture)
        assert drawn == [processor.grid]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "--dataset", LEROBOT), "choose one with --camera or the mapping's line 'image: …'"),
        (("inspect", "--dataset", "absent"), "no dataset 'absent'"),
        (("grid", "--dataset", "absent"), "no dataset 'absent'"),
        (("grid",), "nothing to train on"),
        (("grid", "--dataset", LEROBOT, *CAMERA, "--out", "a/grid.txt"), "PNG picture; call it grid.png"),
        (("statistics", "--dataset", LEROBOT, "--weights", "2", "--out", "s.json"), "leave --weights out"),
        (("inspect", "--dataset", DATA), "is no dataset"),
        (("inspect", "--dataset", RLDS, *CAMERA), "takes no mapping or camera"),
        (("inspect", "--dataset", RLDS, "--spec", "bridge_origin"), "the closest are bridge_orig"),
        (("convert", "--dataset", LEROBOT, *CAMERA, "--out", LEROBOT), "already holds a dataset"),
        (
            (
                "convert",
                "--dataset",
                RLDS,
                "--out",
                "o",
                "--depth-video",
                "log",
                "--depth-range",
                "10",
                "9000",
            ),
            "are meters, not millimeters.",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
