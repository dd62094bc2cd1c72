import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spatialvla
from spatialvla.actions.units import LIBERO, ActionUnits
from spatialvla.cli.main import VERBS, main
from spatialvla.cli.predict import read_depth, read_pose
from spatialvla.common.output_folder import check_output_folder
from spatialvla.data.oxe.mixtures import MIXTURES
from spatialvla.errors import InputError
from spatialvla.kernels.library import available
from spatialvla.simulation.recording.config import RecordingConfig
from spatialvla.training.config import DatasetConfig
from spatialvla.training.loop import RunResult
from spatialvla.training.recipes import nano
from spatialvla.training.run.stopping import STOPPED

TESTS = Path(__file__).parents[1]
CHECKPOINT = TESTS / "goldens" / "reference" / "checkpoint"
PICTURE = TESTS / "goldens" / "reference" / "images" / "img4_100x140.png"
DATASET = TESTS / "data" / "lerobot_v3"
PREDICT = ["predict", str(PICTURE), "pick up the cup", "--policy", str(CHECKPOINT)]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a call that exits with 2."""
    with pytest.raises(SystemExit) as error:
        main([str(argument) for argument in arguments])
    assert error.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demos", "--out", "x"], "`demos` is now `record`"),
        (["depth", "--out", "x"], "`depth` is now `train-depth`"),
        (["grid", "--dataset", "x"], "`grid` is now `data grid`"),
        (
            ["train", "--dataset", "x", "--initial", "nano"],
            "`--initial` of `train` is now --policy",
        ),
        (["train", "--dataset", "x", "--initial=nano"], "`--initial` of `train` is now --policy"),
        (["finetune", "--lora-rank", "8"], "`--lora-rank` of `finetune` is now --lora.rank."),
        (["evaluate", "--execution", "async"], "`--execution` of `evaluate` is now --execution.mode."),
        (["evaluate", "--no-commit"], "`--no-commit` of `evaluate` is now --execution.no-commit."),
        (["serve", "--steps", "2"], "`--steps` of `serve` is now --execution.steps."),
        (["results", "--compare", "a", "b"], "spatialvla compare FIRST SECOND"),
        (["data", "inspect", "bridge"], "spatialvla data inspect --dataset bridge"),
        (["data", "convert", "bridge", "--out", "x"], "spatialvla data convert --dataset bridge"),
        (["export", "runs/a", "--out", "x"], "spatialvla export --policy runs/a"),
    ],
)
def test_old_words_are_answered_with_the_new_ones(capsys, arguments, message):
    assert message in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "There is no verb `trian`; did you mean `train`?"),
        (["data", "inspekt"], "There is no verb `data inspekt`; did you mean `data inspect`?"),
        (["sing"], "There is no verb `sing`; see spatialvla --help."),
    ],
)
def test_a_mistyped_verb_is_answered_with_the_nearest(capsys, arguments, message):
    assert message in fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"), [([], set(VERBS)), (["data"], {name for name in VERBS if "data " in name})]
)
def test_help_lists_the_verbs_with_a_line_each(capsys, monkeypatch, arguments, expected):
    monkeypatch.setenv("COLUMNS", "80")
    main([*arguments, "--help"])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    listed = {name for line in lines for name in VERBS if line.startswith(f"{name}  ") and line.endswith(".")}
    assert listed == expected


def test_the_version_is_the_package_s(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"spatialvla {spatialvla.__version__}\n"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "w8a8", "int4", "w4a8"])
def test_predict_in_every_precision(capsys, precision):
    arguments = [*PREDICT, "--dataset", "bridge_orig/1.0.0", "--device", "cpu", "--precision", precision]
    if precision in ("w8a8", "w4a8") and not available():
        assert "choose weights" in fails(capsys, *arguments)
        return
    main(arguments)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    assert len(rows) == 2


def test_predict_prints_a_row_a_step_and_draws(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    depth = tmp_path / "depth.npy"
    np.save(depth, np.full((140, 100), 0.8, np.float32))
    main(
        [
            *PREDICT,
            *("--dataset", "bridge_orig/1.0.0", "--figures", str(tmp_path / "figures")),
            *("--intrinsics", "150", "150", "70", "50", "--depth", str(depth)),
        ]
    )
    out = capsys.readouterr().out
    assert "…" not in out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(len(row) == 11 and row[7] in ("open", "closed") for row in rows)
    for name in ("depth.png", "points.png", "grid.png"):
        with Image.open(tmp_path / "figures" / name) as picture:
            assert picture.width > 300


def test_predict_prints_json_with_the_units(capsys):
    main([*PREDICT, "--dataset", "bridge_orig/1.0.0", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["instruction"] == "pick up the cup"
    assert [axis["name"] for axis in document["axes"]] == ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    moves = [(axis["one_is"], axis["unit"], axis["frame"]) for axis in document["axes"][:6]]
    assert moves == [(1.0, "meters", "base")] * 3 + [(1.0, "radians", "base")] * 3
    assert document["axes"][6] == {"name": "gripper", "closed": 0.0, "open": 1.0, "kind": "absolute"}
    assert np.shape(document["actions"]) == (2, 7)
    assert np.shape(document["tokens"]) == (2, 3)
    assert document["units"] == ActionUnits(1.0, 1.0, "euler", "base", (0.0, 1.0), 5.0).to_json()


def test_predict_tells_how_sure_the_policy_was(capsys):
    main([*PREDICT, "--dataset", "tiny_robot/0.1.0", "--uncertainty"])
    assert "entropy in bits" in capsys.readouterr().out
    main([*PREDICT, "--dataset", "tiny_robot/0.1.0", "--uncertainty", "--json"])
    document = json.loads(capsys.readouterr().out)
    told = document["uncertainty"]
    assert np.array(told["entropy"]).shape == np.array(document["tokens"]).shape
    assert (np.array(told["entropy"]) > 0).all()
    assert told["spread_mm"] is None, "nobody says what 1 is"


def test_predicts_json_says_null_where_nobody_knows_a_unit(capsys):
    main([*PREDICT, "--dataset", "tiny_robot/0.1.0", "--json"])
    axes = json.loads(capsys.readouterr().out)["axes"]
    assert all(axis["one_is"] is None and axis["frame"] is None for axis in axes[:6])
    assert axes[6]["open"] is None
    names = [axis["name"] for axis in LIBERO.axes()]
    assert names == ["x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper"]


@pytest.mark.parametrize("place", [0, 1, -1])
def test_verbose_shows_the_traceback_above_the_sentence_wherever_it_stands(capsys, place):
    words = ["predict", "absent.png", "go", "--policy", "nano", "end"][:-1]
    words.insert(place % (len(words) + 1), "--verbose")
    with pytest.raises(SystemExit) as error:
        main(words)
    assert error.value.code == 2
    first, *_, last = capsys.readouterr().err.splitlines()
    assert first.startswith("Traceback")
    assert last == "spatialvla: absent.png does not exist."


def test_verbose_says_what_is_done(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "spatialvla", *PREDICT, "--dataset", "bridge_orig/1.0.0", "--verbose"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"a network of {CHECKPOINT} is in {CHECKPOINT}" in done.stderr
    assert "is loaded onto" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (PREDICT, "(on the command line --dataset): bridge_orig/1.0.0, tiny_robot/0.1.0"),
        ([*PREDICT, "--dataset", "bridge/1.0.0"], "bridge_orig/1.0.0"),
        ([*PREDICT, "--dataset", "bridge_orig/1.0.0", "--intrinsics", "0", "9", "1", "1"], "singular"),
        (["predict", "absent.png", "go", "--policy", "nano"], "absent.png does not exist"),
        (["predict", str(CHECKPOINT / "config.json"), "go", "--policy", "nano"], "no readable picture"),
        (["train", "--dataset", str(DATASET), "--preset", "nanno"], "no preset 'nanno'; did you mean nano?"),
        (["finetune", "--policy", "nano"], "nothing to train on"),
        (["finetune", "--dataset", "a", "b", "--weights", "1"], "as many --weights"),
        (["pretrain", "--mixture", "oxe_spatial_vla_plus"], "from --root"),
        (
            ["pretrain", "--mixture", "oxe_magic_soup", "--root", "r", "--weights", "2", "--spec", "kuka"],
            "--weights, --spec is for --dataset; name one, or leave it out.",
        ),
        (["pretrain", "--dataset", "d", "--root", "r"], "--root is of a --mixture"),
        (["finetune", "--dataset", "d", "--mode", "full", "--lora.rank", "4"], "no LoRA adapter"),
        (["pretrain", "--mixture", "oxe_spatial_vla", "--root", "r"], "did you mean oxe_spatial_vla_plus"),
        (["evaluate", "--policy", "nano", "--suite", "simpler_widow"], "did you mean simpler_widowx?"),
        (["train", "--dataset", "d", "--rollout-suite", "libro_goal"], "did you mean libero_goal"),
        (["predict", str(PICTURE), "go", "--policy", "nano", "--device", "gpu"], "no device called 'gpu'"),
        (["data", "inspect", "--dataset", "gs://bucket/bridge"], "run pip install 'fsspec[gs]'."),
        (["serve", "--policy", "nano", "--mapping", "libro"], "did you mean libero"),
        (["serve", "--policy", "nano", "--port", "65536"], "--port is 65536; ports go from 0 to 65535."),
        (["serve", "--policy", "nano", "--metrics-port", "-1"], "--metrics-port is -1; ports go from 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert message in fails(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--dataset", "absent"],
        ["finetune", "--dataset", "absent", "--policy", "absent"],
        ["train-depth", "--dataset", "absent"],
        ["record", "--suite", "absent"],
        ["evaluate", "--policy", "absent"],
        ["export", "--policy", "absent"],
        ["export", "--policy", "absent", "--to", "onnx"],
        ["data", "convert", "--dataset", "absent"],
        ["data", "inspect", "--dataset", "absent"],
        ["data", "grid", "--dataset", "absent"],
    ],
    ids=" ".join,
)
def test_an_output_below_a_file_is_refused_before_anything_is_read(capsys, tmp_path, arguments):
    (tmp_path / "notes.txt").write_text("")
    out = tmp_path / "notes.txt" / "out"
    told = fails(capsys, *arguments, "--out", str(out / "grid.png" if "grid" in arguments else out))
    assert f"{out} cannot be a folder, as {tmp_path / 'notes.txt'} is none; choose another --out." in told


def test_an_output_that_is_a_file_itself_is_refused_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("link").symlink_to("nowhere")
    for out in ("file", "link"):
        told = fails(capsys, "record", "--out", out)
        assert f"{out} cannot be a folder, as {out} is none" in told
    told = fails(capsys, "record", "--out", "new", "--episodes", "file/x")
    assert "file/x cannot be a folder" in told
    assert "choose another --episodes." in told
    told = fails(capsys, "predict", "absent.png", "go", "--policy", "absent", "--figures", "file/x")
    assert "choose another --figures." in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_an_output_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match=f"as you may not write {tmp_path}; choose another --out"):
        check_output_folder(tmp_path / "a" / "b")


def test_depth_files_are_meters_or_millimeters(tmp_path):
    meters = np.linspace(0.5, 2.0, 12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", meters)
    Image.fromarray((meters * 1000).round().astype(np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_depth(tmp_path / "a.npy"), meters)
    np.testing.assert_allclose(read_depth(tmp_path / "a.png"), meters, atol=6e-4)


def test_depth_files_that_are_none(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([object()]), allow_pickle=True)
    (tmp_path / "pickled.npy").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"no readable \.npy"):
        read_depth(tmp_path / "pickled.npy")
    Image.new("L", (4, 4)).save(tmp_path / "gray.png")
    with pytest.raises(InputError, match="16-bit"):
        read_depth(tmp_path / "gray.png")


def test_extrinsics_files(tmp_path, capsys):
    matrix = np.array([[0, 0.6, -0.8, 1.2], [1, 0, 0, 0], [0, -0.8, -0.6, 0.9], [0, 0, 0, 1]])
    np.save(tmp_path / "a.npy", matrix)
    (tmp_path / "a.txt").write_text("0 0.6 -0.8 1.2\n1 0 0 0\n0 -0.8 -0.6 0.9\n0 0 0 1\n")
    for name in ("a.npy", "a.txt"):
        np.testing.assert_array_equal(read_pose(tmp_path / name), matrix)
    main([*PREDICT, "--dataset", "tiny_robot/0.1.0", "--extrinsics", str(tmp_path / "a.txt"), "--mirrored"])
    assert "gripper" in capsys.readouterr().out
    (tmp_path / "text.txt").write_text("0 a\n")
    np.save(tmp_path / "turned.npy", matrix.T)
    assert "holds no 4x4 matrix" in fails(capsys, *PREDICT, "--extrinsics", tmp_path / "text.txt")
    assert "transpose the matrix" in fails(capsys, *PREDICT, "--extrinsics", tmp_path / "turned.npy")
    assert "holds no 4x4 matrix" in fails(capsys, *PREDICT, "--extrinsics", tmp_path / "missing.npy")


def test_a_policy_in_the_robots_frame_asks_for_extrinsics(tmp_path, capsys):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "robot")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"ego3d_frame": "robot"}))
    said = fails(capsys, *PREDICT[:3], "--policy", folder, "--dataset", "tiny_robot/0.1.0")
    assert "pass extrinsics of the camera 'image'" in said


@pytest.fixture
def runs(monkeypatch):
    """The configurations that `train` was called with; it is told to stop at once."""
    called = []

    def train(config, resume, device, console, rollout):
        called.append((config, resume, device))
        return RunResult(finished=False, step=7, model=None, validation={})

    monkeypatch.setattr("spatialvla.training.loop.train", train)
    return called


def stops(*arguments):
    with pytest.raises(SystemExit) as error:
        main([str(argument) for argument in arguments])
    assert error.value.code == STOPPED


def test_train_passes_on_what_was_chosen_and_leaves_the_rest_to_the_recipe(tmp_path, runs):
    stops("train", "--dataset", DATASET, "--out", tmp_path, "--steps", 7, "--learning-rate", 0.5, "--resume")
    datasets = (DatasetConfig(str(DATASET)),)
    expected = replace(nano(), datasets=datasets, out=tmp_path, steps=7, learning_rate=0.5)
    assert runs == [(expected, True, None)]


def test_pretrain_takes_a_published_mixture_from_its_root(tmp_path, runs):
    for name in MIXTURES["oxe_spatial_vla_plus"]:
        (tmp_path / "oxe" / name.replace("bridge_orig", "bridge_dataset")).mkdir(parents=True)
    root = f"{tmp_path}/oxe"
    stops("pretrain", "--mixture", "oxe_spatial_vla_plus", "--root", f"{root}/", "--out", tmp_path)
    config = runs[0][0]
    assert len(config.datasets) == 28
    assert config.datasets[2] == DatasetConfig(f"{root}/bridge_dataset", 1.0, spec="bridge_orig")
    assert (config.batch_size, config.learning_rate, config.min_sigma) == (2048, 2e-5, 0.5)
    assert config.shares == "published"


def test_a_copy_that_is_put_right_is_said_of_all_datasets(tmp_path, runs):
    for name in MIXTURES["rtx"]:
        (tmp_path / "oxe" / name).mkdir(parents=True)
    where = ["--mixture", "rtx", "--root", tmp_path / "oxe", "--out", tmp_path]
    stops("pretrain", *where, "--copy", "repaired")
    stops("pretrain", *where)
    assert [{dataset.copy for dataset in config.datasets} for config, _, _ in runs] == [
        {"repaired"},
        {"auto"},
    ]


def test_train_goes_on_with_a_new_grid_too(tmp_path, runs):
    stops(
        "train", "--dataset", "one", "--out", tmp_path, "--policy", "nano", "--new-grid", "--grid", "uniform"
    )
    ((config, _, _),) = runs
    assert (config.policy, config.mode, config.new_grid, config.grid) == ("nano", "full", True, "uniform")


def test_finetune_follows_the_published_recipe_of_the_mode(tmp_path, runs):
    files = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    data = ["--dataset", "one", "two", "--weights", 1, 2, "--mapping", *files]
    stops("finetune", *data, "--out", tmp_path, "--lora.rank", 8, "--trackers", "wandb")
    stops("finetune", "--dataset", "one", "--out", tmp_path, "--mode", "full", "--new-grid")
    lora, full = (config for config, _, _ in runs)
    assert lora.datasets == (DatasetConfig("one", 1, files[0]), DatasetConfig("two", 2, files[1]))
    assert (lora.mode, lora.learning_rate, lora.lora.rank, lora.trackers) == ("lora", 5e-4, 8, ("wandb",))
    assert (full.mode, full.learning_rate, full.new_grid) == ("full", 2e-5, True)
    for config in (lora, full):
        assert (config.batch_size, config.epochs, config.steps) == (256, 50, None)
        assert (config.schedule, config.warmup, config.weight_decay) == ("linear", 0.005, 0.0)
        assert config.policy == "IPEC-COMMUNITY/spatialvla-4b-224-pt"


def test_policies_of_nanos_size_are_fine_tuned_at_nanos_rates(tmp_path, runs):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "nano"}')
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "config.json").write_text('{"text_config": {"hidden_size": 2304}}')
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_text('{"text_config": {}}')
    wanted = {
        ("nano", "full"): 3e-4,
        ("nano", "lora"): 1e-3,
        (adapter, "full"): 3e-4,
        (tmp_path / "large", "full"): 2e-5,
        (tmp_path / "published", "lora"): 5e-4,
        ("someone/on-the-hub", "lora"): 5e-4,
    }
    for policy, mode in wanted:
        stops("finetune", "--dataset", "one", "--out", tmp_path, "--policy", policy, "--mode", mode)
    assert [config.learning_rate for config, _, _ in runs] == list(wanted.values())
    assert [config.batch_size for config, _, _ in runs] == [16, 16, 16, 256, 256, 256]


def test_record_passes_on_what_was_chosen(tmp_path, monkeypatch, capsys):
    calls = []
    recorders = "spatialvla.simulation.recorders.record_demonstrations"
    monkeypatch.setattr(recorders, lambda config, progress: calls.append(config))
    main(["record", "--out", str(tmp_path), "--episodes-per-task", "3", "--workers", "4", "--no-depth"])
    assert calls == [RecordingConfig(tmp_path, episodes_per_task=3, workers=4, depth=False)]
    assert str(tmp_path) in capsys.readouterr().out
    main(["record", "--out", str(tmp_path), "--cameras", "random", "--random-views", "3", "--wrist"])
    assert calls[1] == RecordingConfig(tmp_path, cameras="random", random_views=3, wrist=True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_terminal_without_greek_letters_gets_the_numbers_all_the_same(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
    monkeypatch.setattr("spatialvla.cli.predict.Predict.run", lambda self: print("Δx +0.0012"))
    main(["predict", "picture.png", "pick it up", "--policy", "nano"])
    assert written.getvalue().strip() == b"?x +0.0012"


def test_predict_takes_further_cameras_a_state_and_a_calibration(tmp_path, capsys):
    """The reference checkpoint has neither: it says so. What its one camera lacks comes from the file."""
    robot = tmp_path / "robot.yaml"
    robot.write_text(
        "cameras:\n  front: {K: [[200, 0, 100], [0, 200, 140], [0, 0, 1]], height: 280, width: 200,\n"
        "    extrinsics: [[0, 0.6, -0.8, 1.2], [1, 0, 0, 0], [0, -0.8, -0.6, 0.9], [0, 0, 0, 1]]}\n"
    )
    predict = [*PREDICT, "--dataset", "tiny_robot/0.1.0", "--json"]
    main([*predict, "--calibration", str(robot)])
    filled = json.loads(capsys.readouterr().out)["tokens"]
    main([*predict, "--intrinsics", "100", "100", "50", "70"])
    assert json.loads(capsys.readouterr().out)["tokens"] == filled
    for options, sentence in (
        (["--views", f"wrist={PICTURE}"], "The policy has no camera 'wrist'"),
        (["--views", "wrist"], "--views takes NAME=PICTURE, each name once, not 'wrist'"),
        (["--views", "wrist=absent.png"], "absent.png does not exist"),
        (["--state", "0.1", "0.2"], "This policy takes no state; leave it out"),
        (["--calibration", "absent.yaml"], "absent.yaml"),
        (["--gripper-pose", str(PICTURE)], "holds no 4x4 matrix of numbers"),
    ):
        assert sentence in fails(capsys, *predict, *options)
