"""A run's configuration as a file: written, edited, run, overridden, and gone on with."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from spatialvla.cli.main import main
from spatialvla.common.json_files import write_json
from spatialvla.data.augmentation import Augmentation
from spatialvla.model.lora_options import LoraOptions
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.guidance_config import Guidance
from spatialvla.training.loop import RunResult
from spatialvla.training.recipes import finetune, nano, pretrain


@pytest.fixture
def runs(monkeypatch):
    """The configurations that `train` was called with, and whether they were to be resumed."""
    called = []

    def train(config, resume, *_):
        called.append((config, resume))
        return RunResult(finished=True, step=1, model=Path("model"), validation={})

    monkeypatch.setattr("spatialvla.training.loop.train", train)
    return called


def fails(capsys, *words) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


EVERYTHING = replace(
    finetune("lora"),
    datasets=(
        DatasetConfig("one", 2.0, Path("one.yaml"), key="mine"),
        DatasetConfig("two", spec="bridge_orig"),
    ),
    cache=Path("caché"),
    lora=LoraOptions(rank=8, target="linear+emb", modules_to_save=("lm_head",)),
    augmentation=Augmentation(0.5, 0.7, hue=0.0),
    guidance=Guidance(privileged=("observation.state[0:3]",), privileged_weight=1.0),
    rate_factors={"model.vision_tower": 0.5},
    betas=(0.8, 0.95),
    trackers=("wandb",),
    epochs=2.5,
    steps=None,
    learning_rate=1e-7,
)


@pytest.mark.parametrize(
    ("words", "recipe"),
    [(["train"], nano()), (["pretrain"], pretrain()), (["finetune", "--mode", "full"], finetune("full"))],
)
def test_what_is_written_is_what_is_run(tmp_path, runs, words, recipe):
    file = tmp_path / "new" / "run.yaml"
    main([*words, "--dataset", "demos", "--steps", "7", "--write-config", str(file)])
    assert not runs
    main([words[0], "--config", str(file)])
    assert runs == [(replace(recipe, datasets=(DatasetConfig("demos"),), steps=7), False)]


def test_every_value_comes_back(tmp_path, runs):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(EVERYTHING.to_json(), allow_unicode=True), encoding="utf-8")
    main(["finetune", "--config", str(file)])
    assert runs == [(EVERYTHING, False)]


def test_an_edited_file_changes_the_recipe_and_options_change_the_file(tmp_path, runs):
    file = tmp_path / "run.yaml"
    file.write_text(
        "mode: full\ndatasets: [{path: demos}]\nlearning-rate: 1e-6\nsteps: 30\naugmentation: {hue: 0}\n"
    )
    main(["finetune", "--config", str(file), "--steps", "40", "--augmentation.contrast", "0.1"])
    expected = replace(
        finetune("full"),
        datasets=(DatasetConfig("demos"),),
        learning_rate=1e-6,
        steps=40,
        augmentation=Augmentation(hue=0.0, contrast=0.1),
    )
    main(["finetune", "--config", str(file), "--mode", "lora", "--dataset", "others"])
    assert runs[0] == (expected, False)
    assert (runs[1][0].mode, runs[1][0].datasets) == ("lora", (DatasetConfig("others"),))


def test_options_of_datasets_need_the_datasets_beside_a_file(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("datasets: [{path: demos}]\n")
    line = fails(capsys, "finetune", "--config", tmp_path / "run.yaml", "--weights", "2")
    assert "belong to what --dataset or --mixture names; name it, or edit the datasets" in line


def test_help_shows_the_files_values(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("batch_size: 77\n")
    with pytest.raises(SystemExit):
        main(["finetune", "--config", str(tmp_path / "run.yaml"), "--help"])
    assert "(default: 77)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("batchsize: 3", "there is no entry batchsize; did you mean batch_size"),
        ("augmentation: {hues: 3}", "there is no entry augmentation.hues; did you mean hue?"),
        ("batch_size: many", "batch_size is a whole number, not 'many'."),
        ("batch_size: 1.5", "batch_size is a whole number, not 1.5."),
        ("batch_size: true", "batch_size is a whole number, not True."),
        ("steps: 0", "steps must be at least 1, not 0."),
        ("mode: lroa", "mode is one of full, lora, adapt, not 'lroa'."),
        ("betas: [0.9]", "betas has 2 items, not 1."),
        ("datasets: demos", "datasets is a list, not 'demos'."),
        ("datasets: [{weight: 2}]", "datasets[0] lacks 'path'."),
        ("lora: 8", "lora is an object, not 8."),
        ("- one", "holds no entries such as batch_size: 32; name a file that --write-config made."),
        ("a: [", "is no readable YAML"),
        (None, "does not exist; name the configuration's YAML file."),
    ],
)
def test_wrong_files_are_answered_in_a_sentence(tmp_path, capsys, content, message):
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_text(content)
    line = fails(capsys, "finetune", "--config", file, "--dataset", "demos")
    assert message in line
    assert str(file) in line


@pytest.mark.parametrize("verb", ["finetune", "train", "pretrain"])
def test_resume_alone_goes_on_with_the_runs_own_configuration(tmp_path, runs, verb):
    stored = replace(EVERYTHING, out=tmp_path)
    write_json(tmp_path / "config.json", stored.to_json())
    main([verb, "--resume", "--out", str(tmp_path)])
    main([verb, "--resume", "--out", str(tmp_path), "--workers", "3"])
    assert runs == [(stored, True), (replace(stored, workers=3), True)]


def test_a_run_that_moved_goes_on_where_it_is_now(tmp_path, runs):
    write_json(tmp_path / "config.json", replace(EVERYTHING, out=Path("runs/before")).to_json())
    main(["finetune", "--resume", "--out", str(tmp_path)])
    assert runs == [(replace(EVERYTHING, out=tmp_path), True)]


def test_resume_starts_where_there_is_no_run_yet(tmp_path, runs, capsys):
    main(["finetune", "--resume", "--out", str(tmp_path), "--dataset", "demos"])
    assert runs == [(replace(finetune(), out=tmp_path, datasets=(DatasetConfig("demos"),)), True)]
    capsys.readouterr()
    assert f"{tmp_path} holds no run to resume" in fails(capsys, "finetune", "--resume", "--out", tmp_path)


def test_a_damaged_record_of_a_run_is_named(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    line = fails(capsys, "finetune", "--resume", "--out", tmp_path)
    assert "config.json is not valid JSON" in line
    write_json(tmp_path / "config.json", {**TrainConfig().to_json(), "of_tomorrow": 1})
    assert "there is no entry of_tomorrow" in fails(capsys, "finetune", "--resume", "--out", tmp_path)


def test_the_advice_of_a_stopped_run_can_be_typed(tmp_path, monkeypatch, capsys):
    stopped = RunResult(finished=False, step=7, model=None, validation={})
    monkeypatch.setattr("spatialvla.training.loop.train", lambda *_: stopped)
    out = tmp_path / "my [b]runs[/b]"
    with pytest.raises(SystemExit):
        main(["train", "--dataset", "demos", "--out", str(out)])
    assert f"go on with spatialvla train --resume --out '{out}'" in capsys.readouterr().err
