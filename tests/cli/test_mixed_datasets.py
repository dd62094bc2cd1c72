"""RLDS, LeRobot and RH20T datasets mix in one run, each with its own description and weight, as it is typed."""

import json
from pathlib import Path

import numpy as np
import pytest
import rh20t_writer
from PIL import Image

from spatialvla.cli.dataset_options import DatasetOptions
from spatialvla.cli.main import main
from spatialvla.errors import InputError
from spatialvla.policy import Policy
from spatialvla.training.config import DatasetConfig

ROOT = Path(__file__).parents[2]
RLDS = ROOT / "tests" / "data" / "rlds" / "bridge_orig"
LEROBOT = ROOT / "tests" / "data" / "lerobot_v3"
MAPPING, SPEC = str(ROOT / "examples" / "my_robot.yaml"), str(ROOT / "examples" / "my_rlds.yaml")
TOP = "observation.images.top"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def mixed(tmp_path):
    """Options that name a dataset of a mixture, one described by a file, one of LeRobot's and one of RH20T's."""
    (tmp_path / "oxe" / "bridge_dataset").mkdir(parents=True)
    (tmp_path / "oxe" / "bridge_dataset" / "1.0.0").symlink_to(RLDS)
    rh20t = tmp_path / "rh20t"
    rh20t.mkdir()
    rh20t_writer.write_descriptions(rh20t, task_0001="stack the cups")
    for number in (1, 2):
        scene = rh20t / "RH20T_cfg1" / rh20t_writer.scene(1, number)
        rh20t_writer.write_scene(scene, rh20t_writer.START + np.arange(12) * 100)
    return [
        *("--mixture", "bridge_orig", "--root", str(tmp_path / "oxe")),
        *("--dataset", str(RLDS), str(LEROBOT), str(rh20t), "--weights", "1", "0.5", "2"),
        *("--mapping", "none", MAPPING, "none", "--spec", SPEC),
    ]


def test_grid_looks_at_a_mixed_run(mixed, capsys, tmp_path):
    main(["data", "grid", *mixed, "--out", str(tmp_path / "grid.png")])
    out = capsys.readouterr().out
    assert "bridge_orig/1.0.0, my_robot/1.0.0, lerobot_v3, rh20t:" in out
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > 800


def test_pretraining_a_small_network_on_a_mixed_run(mixed, tmp_path):
    sizes = ("--steps", "1", "--batch-size", "4", "--workers", "0", "--eval-frames", "4", "--device", "cpu")
    main(["pretrain", "--preset", "nano", *mixed, *sizes, "--out", str(tmp_path / "run")])
    (last,) = (json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    keys = {"bridge_orig/1.0.0", "my_robot/1.0.0", "lerobot_v3", "rh20t"}
    assert {name.removeprefix("loss/") for name in last} >= keys
    policy = Policy.from_pretrained(tmp_path / "run/model", dataset="my_robot/1.0.0")
    assert set(policy.processor.statistics) == keys
    assert policy.processor.grid.bins.theta == 16  # of the recipe, to which the network's size is fitted


def configured(*paths, **options):
    return DatasetOptions(dataset=tuple(map(str, paths)), **options).configurations()


def test_one_description_is_for_all_datasets_of_its_kind(tmp_path):
    rh20t_writer.write_scene(tmp_path / rh20t_writer.scene(1, 1), rh20t_writer.START + np.arange(3) * 100)
    found = configured(
        RLDS, LEROBOT, tmp_path, LEROBOT, mapping=(MAPPING,), camera=(TOP,), spec=("bridge_orig",)
    )
    own = {"mapping": Path(MAPPING), "camera": TOP}
    assert found == (
        DatasetConfig(str(RLDS), spec="bridge_orig"),
        DatasetConfig(str(LEROBOT), **own),
        DatasetConfig(str(tmp_path)),
        DatasetConfig(str(LEROBOT), **own),
    )


def test_one_description_for_each_dataset_has_a_word_for_none():
    """Nothing is looked at: the datasets may be on the Hub."""
    options = {"mapping": ("a.yaml", "none", "None"), "camera": ("none", "none", "left")}
    found = configured(
        "me/a", "gs://b", "me/c", spec=("none", "my.yaml", "none"), weights=(1, 0.25, 3), **options
    )
    assert found == (
        DatasetConfig("me/a", 1, Path("a.yaml")),
        DatasetConfig("gs://b", 0.25, spec="my.yaml"),
        DatasetConfig("me/c", 3, camera="left"),
    )


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        ((RLDS, LEROBOT, LEROBOT), {"mapping": ("a", "b")}, "one --mapping for all LeRobot datasets, or one for each"),
        ((RLDS, RLDS), {"mapping": ("a",)}, "--mapping is for LeRobot datasets, and there is none"),
        ((LEROBOT, LEROBOT), {"spec": ("a",)}, "--spec is for RLDS datasets, and there is none"),
        ((RLDS, LEROBOT), {"weights": (2.0,)}, "2 datasets need as many --weights, or none; got 1"),
        ((), {"spec": ("a",), "camera": ("b",)}, "--camera, --spec is for --dataset"),
        ((), {}, "nothing to train on"),
    ],
)  # fmt: skip
def test_options_that_fit_no_dataset_are_said(paths, options, message):
    with pytest.raises(InputError, match=message):
        configured(*paths, **options)


@pytest.mark.parametrize(
    "verb",
    ["train", "finetune", "pretrain", "train-depth", "data inspect", "data convert", "data grid"],
)
def test_every_verb_that_reads_a_dataset_takes_its_description(capsys, verb):
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    words = capsys.readouterr().out.split()
    assert {"--dataset", "--mapping", "--camera", "--spec"} <= set(words)


def test_small_training_on_rlds_alone_says_what_has_no_guidance(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--dataset", str(RLDS), "--steps", "1", "--device", "cpu", "--out", str(tmp_path)])
    assert "leave the guidance by them out, as `spatialvla pretrain --preset nano`" in capsys.readouterr().err
