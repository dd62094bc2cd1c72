"""`--help` of every verb says what each option is for, and shows the values that a run without flags uses."""

import ast
import itertools
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from spatialvla.cli.main import VERBS, main
from spatialvla.training.config import TrainConfig
from spatialvla.training.depth_config import DepthConfig
from spatialvla.training.loop import RunResult
from spatialvla.training.recipes import finetune, nano, pretrain

UNSET = {
    "--cache": "beside the dataset, and the user's cache folder",
    "--camera": "the dataset's only one",
    "--cameras": "all that the dataset has",
    "--action-key": "the checkpoint's only one",
    "--readout": "as the checkpoint says",
    "--gym": "a suite instead",
    "--latency": "no --realtime",
    "--mapping": "a dataset that needs none, and no environment of --gym",
    "--chunk-size": "the policy's, or 4",
    "--ego3d-frame": "the policy's, or the camera's",
    "--workspace": "the policy's, or the published one",
    "--extrinsics": "not known",
    "--calibration": "not known but from clients and options",
    "--gripper-pose": "not known",
    "--statistics": "the datasets' own",
    "--spec": "the dataset's own name finds it",
    "--mixture": "--dataset instead",
    "--root": "--dataset instead",
    "--missing-instruction": "such episodes are left out",
    "--augmentation.max-crop-area": "as much as min-crop-area",
    "--epochs": "no limit",
    "--steps": "no limit",
    "--accumulation": "as many as make parts of up to 32 samples",
    "--compile": "in long runs on a CPU",
    "--config": "the recipe alone",
    "--write-config": "the run is started",
    "--gaussians": "fitted to the datasets",
    "--base": "what adapter_config.json names",
    "--name": "the folder's",
    "--license": "not stated",
    "--push": "nothing is uploaded",
    "--depth-weights": "the checkpoint's, or nano's own",
    "--policy": "random weights, or the expert",
    "--paligemma": "random weights",
    "--zoedepth": "random weights",
    "--instructions": "the datasets' own",
    "--minutes": "no limit",
    "--rollout-suite": "none is played",
    "--dataset": "the checkpoint's only one",
    "--shard": "the whole",
    "--rerun": "nothing is recorded",
    "--benchmark": "of vla-eval's clients alone",
    "--limits": "the mapping's",
    "--pad-to": "the mapping's",
    "--stop-above.mm": "the server goes on",
    "--stop-above.bits": "the server goes on",
    "--api-keys": "none",
    "--tls-cert": "none",
    "--tls-key": "none",
    "--metrics-port": "none",
    "--intrinsics": "the checkpoint's camera",
    "--depth": "estimated",
    "--figures": "none are drawn",
    "--out": "nothing is written",
    "--merged": "nothing is written",
    "--publish": "nothing is written",
    "--episodes": "all of them, or a folder that is removed",
    "--fps": "the dataset's own",
    "--size": "the calibration file's",
    "--depth-range": "the calibration file's, or none",
    "--board": "points, not boards",
    "--picture": "a blank one",
    "--drawing": "nothing is drawn",
}
"""Options whose default may be None, and what that means: nothing, no limit, or what the data say."""

SOURCE = Path(__file__).parents[2] / "src" / "spatialvla"

RECIPES = [
    (["train"], nano()),
    (["train", "--policy", "nano"], nano("nano")),
    (["pretrain"], pretrain()),
    (["finetune"], finetune("lora")),
    (["finetune", "--mode", "full"], finetune("full")),
    (["finetune", "--mode", "adapt"], finetune("adapt")),
    (["finetune", "--policy", "nano"], finetune("lora", "nano")),
]


def options(capsys, *words):
    """What a verb's help says of each option: its name and the rest of its entry, on one line."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    # Options begin at the margin; the lines of their texts are indented.
    entries = re.split(r"\n[│ ] ?(?=--[a-z])", capsys.readouterr().out)[1:]
    return {entry.split()[0].rstrip(","): re.sub(r"[│\s]+", " ", entry) for entry in entries}


def defaults(capsys, *words):
    """The values that a verb's help shows, by option, as they are written there; None for required ones."""
    found = {
        name: re.search(r"\(default: ([^)]*)\)|\(required\)", entry)
        for name, entry in options(capsys, *words).items()
    }
    assert all(found.values())
    return {name: match[1] for name, match in found.items()}


@pytest.fixture(autouse=True)
def one_column(monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")


@pytest.mark.parametrize("verb", VERBS)
def test_no_value_that_will_be_used_is_hidden(capsys, verb):
    shown = defaults(capsys, *verb.split())
    assert shown
    unexplained = [name for name, value in shown.items() if value == "None" and name not in UNSET]
    assert not unexplained


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_text(capsys, verb):
    for name, entry in options(capsys, *verb.split()).items():
        text = re.sub(r"\((default|required).*", "", entry)
        assert len(re.findall(r"[a-z]{2,}", re.sub(r"--\S+|\{[^}]*\}|\b[A-Z]+\b", "", text))) >= 2, name


def test_texts_of_options_have_one_line_for_tyro_would_keep_their_line_breaks():
    for file in (*SOURCE.glob("cli/**/*.py"), *SOURCE.glob("training/**/*.py")):
        for kind in (
            node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)
        ):
            for option, text in itertools.pairwise(kind.body):
                if isinstance(option, ast.AnnAssign) and isinstance(text, ast.Expr):
                    assert text.lineno == text.end_lineno, f"{file.name}: {ast.unparse(option.target)}"


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_no_folder_of_this_machine(capsys, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    text = capsys.readouterr().out
    words = [Path(word.strip("()'\",.")) for word in text.split()]
    assert not [word for word in words if word.is_absolute() and word.exists()]


@pytest.fixture
def used(monkeypatch):
    """The configurations that training was called with."""
    called = []

    def train(config, *_):
        called.append(config)
        return RunResult(finished=True, step=1, model=Path("model"), validation={})

    monkeypatch.setattr("spatialvla.training.loop.train", train)
    return called


@pytest.mark.parametrize(
    ("words", "recipe"), RECIPES, ids=lambda value: value if isinstance(value, list) else ""
)
def test_a_run_without_flags_is_its_recipe_and_what_help_shows(capsys, used, words, recipe):
    main([*words, "--dataset", "demos"])
    (config,) = used
    assert config == replace(recipe, datasets=config.datasets)
    assert [dataset.path for dataset in config.datasets] == ["demos"]
    values = flat(config)
    shown = defaults(capsys, *words)
    common = {name: values[name] for name in shown if name in values}
    assert len(common) > 40
    assert {name: shown[name] for name in common} == common


def test_train_depth_shows_and_uses_its_configuration(capsys, monkeypatch):
    called = []

    def train_depth(config, *_):
        called.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("spatialvla.training.depth_estimator.train_depth", train_depth)
    with pytest.raises(SystemExit):
        main(["train-depth", "--dataset", "demos", "--out", "depth"])
    assert called == [DepthConfig(("demos",), Path("depth"))]
    values = flat(called[0])
    shown = {name: value for name, value in defaults(capsys, "train-depth").items() if value is not None}
    assert shown == {name: values[name] for name in shown if name in values} | {"--device": "auto"}


def test_what_follows_from_another_option_is_shown(capsys):
    assert defaults(capsys, "finetune", "--mode", "full")["--learning-rate"] == "2e-05"
    assert defaults(capsys, "finetune", "--mode", "lora")["--learning-rate"] == "0.0005"
    assert defaults(capsys, "finetune", "--policy", "nano")["--learning-rate"] == "0.001"
    assert defaults(capsys, "finetune", "--policy", "nano", "--mode", "full")["--learning-rate"] == "0.0003"
    assert defaults(capsys, "train")["--guidance.vision-steps"] == "5000"
    assert defaults(capsys, "train", "--policy", "nano")["--guidance.vision-steps"] == "0"
    assert defaults(capsys, "serve")["--port"] == "8000"
    assert defaults(capsys, "serve", "--protocol", "lerobot")["--port"] == "8080"
    assert defaults(capsys, "serve", "--protocol=vla-eval")["--benchmark"] == "libero"


def flat(config: TrainConfig | DepthConfig, prefix: str = "--") -> dict[str, str]:
    """A configuration's values as help writes them, by option."""
    values = {}
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if is_dataclass(value):
            values |= flat(value, f"{name}.")
        else:
            values[name] = shlex.join(map(str, value)) if isinstance(value, tuple) else str(value)
    return values


def test_help_and_version_load_no_heavy_library():
    code = (
        "import sys\nfrom spatialvla.cli.main import VERBS, main\n"
        "for words in [[], ['--version'], *([*verb.split(), '--help'] for verb in VERBS)]:\n"
        "    try: main(words)\n"
        "    except SystemExit as ended: assert not ended.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--episodes-per-task" in done.stdout
    assert not {"torch", "transformers", "matplotlib", "libero", "pyarrow", "av"} & set(done.stderr.split())


@pytest.mark.parametrize(
    ("verb", "words"),
    [("predict", "IMAGE INSTRUCTION"), ("compare", "FIRST SECOND"), ("results", "[RESULTS ...]")],
)
def test_usage_names_what_has_no_option(capsys, monkeypatch, verb, words):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    assert words in capsys.readouterr().out.partition("\n\n")[0]
