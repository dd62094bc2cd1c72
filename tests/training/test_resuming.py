"""Going on with a run: exactly, alone, and only with what it was begun with."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_policy import BRIDGE

from conftest import write_dataset
from spatialvla.actions.grids import ActionGrid
from spatialvla.cli.main import main
from spatialvla.common.claims import claimed
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.folders import LAYOUT
from spatialvla.model.lora_options import LoraOptions
from spatialvla.model.weights import write_file
from spatialvla.training import loop, step
from spatialvla.training.checkpoints import identity
from spatialvla.training.checkpoints.checkpointer import FOLDER, complete
from spatialvla.training.checkpoints.export import export
from spatialvla.training.checkpoints.identity import MAY_DIFFER, check_identity, settings_identity
from spatialvla.training.config import DatasetConfig, TrainConfig
from spatialvla.training.config_file import kept_config
from spatialvla.training.loop import train
from spatialvla.training.run import lasting_names
from spatialvla.training.run.lasting_names import with_lasting_names
from spatialvla.training.step import Learner


def everything(checkpoint):
    """Every tensor of a checkpoint of one process."""
    return {name: t for file in checkpoint.glob("*.safetensors") for name, t in load_file(file).items()}


@pytest.mark.parametrize("workers", [0, 1])
def test_resuming_with_dropout_is_exact_to_the_bit(make_config, tmp_path, workers):
    """Validations and new workers on the way draw nothing from the generator of the dropout."""
    policy = train(make_config(out=tmp_path / "policy", steps=1), device="cpu").model
    straight = make_config(
        out=tmp_path / "straight",
        policy=str(policy),
        mode="lora",
        lora=LoraOptions(rank=4, dropout=0.3),
        workers=workers,
        steps=4,
        save_every=2,
        eval_every=2,
        keep=5,
    )
    train(straight, device="cpu")
    halves = replace(straight, out=tmp_path / "halves")
    shutil.copytree(straight.out / FOLDER / "step_00000002", halves.out / FOLDER / "step_00000002")
    train(halves, resume=True, device="cpu")
    first, again = (everything(run.out / FOLDER / "step_00000004") for run in (straight, halves))
    assert first.keys() == again.keys()
    differ = [name for name, tensor in first.items() if not torch.equal(tensor, again[name])]
    assert differ == []
    assert any("lora_" in name for name in first)


def test_sigterm_to_all_processes_saves_and_the_run_goes_on_exactly(make_config, tmp_path, monkeypatch):
    """As a scheduler or Ctrl-C does it: to the process that trains and to its workers, from outside."""
    straight = make_config(out=tmp_path / "straight", steps=6, workers=2)
    train(straight, device="cpu")
    config = replace(straight, out=tmp_path / "stopped")
    update = Learner.update

    def interrupted(self, loaded, step, *rest):
        if step == 1:
            processes = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
            assert len(processes) == 3
            subprocess.run(["kill", "-TERM", *map(str, processes)], check=True)
            time.sleep(0.2)  # for workers to die, if they do
        return update(self, loaded, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", interrupted)
        result = train(config, device="cpu")
    assert (result.finished, result.step, result.model) == (False, 2, None)
    assert train(config, resume=True, device="cpu").step == 6
    weights = [run.out / "model" / "model.safetensors" for run in (straight, config)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_that_is_to_stop_only_saves(make_config, monkeypatch):
    """torchrun waits for 30 s, which a validation or a rollout may take alone."""
    config = make_config(steps=3, eval_every=1, rollout_every=1)
    update, played = Learner.update, []

    def interrupted(self, loaded, step, *rest):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, loaded, step, *rest)

    def rollout(folder, out):
        played.append(int(out.name.removeprefix("step_")))
        return {}

    monkeypatch.setattr(Learner, "update", interrupted)
    assert train(config, device="cpu", rollout=rollout).step == 2
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [1]
    assert played == [1]
    assert [path.name for path in complete(config.out / FOLDER)][-1] == "step_00000002"


def test_only_one_run_writes_a_folder(make_config):
    config = make_config(steps=1)
    with (
        claimed(config.out / FOLDER, "training run"),
        pytest.raises(InputError, match=r"Another training run is writing .*run/checkpoints; choose another"),
    ):
        train(config, device="cpu")
    assert train(config, device="cpu").finished


OTHERS = {
    "preset": "4b",
    "seed": 1,
    "batch_size": 4,
    "missing_instruction": "Do it",
    "held_out": 0.5,
    "shares": "published",
    "learning_rate": 1e-4,
    "warmup": 0.2,
    "schedule": "cosine",
    "betas": (0.9, 0.95),
    "weight_decay": 0.1,
    "clip_norm": 2.0,
    "ema_decay": 0.9,
    "precision": "fp32",
    "rate_factors": {"model.vision_tower": 0.5},
    "mask": "causal",
    "depth": "estimate",
    "committed_steps": 1,
    "grid": "uniform",
    "min_sigma": 0.5,
    "bins.theta": 8,
    "in_memory": False,
    "freeze_text_embeddings": True,
    "freeze_vision_tower": True,
    "augmentation.brightness": 0.3,
    "guidance.soft_targets": 0.1,
    "guidance.privileged": ("observation.state",),
    "lora.rank": 8,
    "datasets.0.weight": 2.0,
    "datasets.0.camera": "observation.images.front",
    "datasets.0.key": "other",
}


def changed(config, name, value):
    """The configuration with one setting another, by its dotted name."""
    first, _, rest = name.partition(".")
    if first == "datasets":
        return replace(config, datasets=(replace(config.datasets[0], **{rest.partition(".")[2]: value}),))
    return replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


def test_every_setting_that_shapes_a_run_is_compared(make_config):
    config = make_config()
    before = settings_identity(config)
    for name, value in OTHERS.items():
        now = settings_identity(changed(config, name, value))
        with pytest.raises(InputError, match=rf"\({re.escape(name)} was [^;]+, is [^;]+\); give those, or"):
            check_identity(config.out, before, now)
    check_identity(config.out, before, settings_identity(config))
    check_identity(config.out, None, settings_identity(config))


def test_what_may_differ_is_all_that_is_not_compared(make_config):
    """A new setting is compared unless it is listed: what may differ, and the datasets, which count by content."""
    compared = {name.split(".")[0] for name in settings_identity(make_config())}
    assert compared | MAY_DIFFER == {field.name for field in fields(TrainConfig)} | {"datasets"}
    assert not compared & MAY_DIFFER
    now = make_config(workers=2, steps=100, minutes=3.0, log_every=7, cache=Path("elsewhere"), trackers=())
    check_identity(now.out, settings_identity(make_config()), settings_identity(now))


def test_a_run_is_refused_in_one_sentence_that_says_which_settings_differ(make_config):
    config = make_config(steps=1)
    train(config, device="cpu")
    before = (config.out / "config.json").read_bytes()
    other = replace(config, steps=2, batch_size=4, min_sigma=0.5)
    with pytest.raises(
        InputError,
        match=r"run cannot be resumed with other settings than it was begun with \(batch_size was 8, is 4; "
        r"min_sigma was 0\.0, is 0\.5\); give those, or choose another --out\.$",
    ):
        train(other, resume=True, device="cpu")
    assert (config.out / "config.json").read_bytes() == before
    longer = replace(config, steps=2, log_every=3, keep=1, workers=1)
    assert train(longer, resume=True, device="cpu").step == 2


def test_files_that_shape_a_run_are_compared_by_what_they_hold(make_config, tmp_path):
    texts = tmp_path / "texts.json"
    texts.write_text('["push"]')
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "config.json").write_text("{}")
    (policy / "model.safetensors").write_bytes(bytes(3 << 20))
    config = make_config(instructions=texts, policy=str(policy))
    before = settings_identity(config)
    moved = policy.rename(tmp_path / "moved")
    texts.touch()
    check_identity(config.out, before, settings_identity(replace(config, policy=str(moved))))
    texts.write_text('["pull"]')
    with moved.joinpath("model.safetensors").open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"another")
    with pytest.raises(
        InputError, match=rf"\(instructions {texts} has changed; policy was .*policy, is .*moved\)"
    ):
        check_identity(config.out, before, settings_identity(replace(config, policy=str(moved))))


def test_a_shipped_depth_estimator_is_compared_by_what_it_holds(make_config):
    """Unless the run was begun by a version that did not look into it."""
    nano, wrist = (
        settings_identity(make_config(depth_weights=Path(name))) for name in ("nano", "nano-wrist")
    )
    assert nano["depth_weights"]["content"]
    with pytest.raises(InputError, match=r"\(depth_weights was nano, is nano-wrist\)"):
        check_identity(Path("run"), nano, wrist)
    check_identity(Path("run"), {**nano, "depth_weights": {"name": "nano", "content": ""}}, nano)


def test_shipped_texts_are_compared_by_what_they_hold(make_config, tmp_path, monkeypatch):
    """Also where the run was begun by a version that did not look into them: there by their name."""
    run, texts = Path("run"), tmp_path / "texts.json"
    texts.write_bytes(lasting_names.LIBERO_INSTRUCTIONS.read_bytes())
    shipped, own = (settings_identity(make_config(instructions=path)) for path in (Path("libero"), texts))
    check_identity(run, shipped, own)
    older = {**shipped, "instructions": {"name": "libero", "content": ""}}
    check_identity(run, older, shipped)
    texts.write_text('["push"]')
    other = settings_identity(make_config(instructions=texts))
    for begun in (shipped, older):
        with pytest.raises(InputError, match=r"\(instructions was libero, is .*texts\.json\); give those"):
            check_identity(run, begun, other)
    monkeypatch.setattr(lasting_names, "LIBERO_INSTRUCTIONS", texts)
    with pytest.raises(InputError, match=r"\(instructions libero has changed\); give those"):
        check_identity(run, shipped, settings_identity(make_config(instructions=Path("libero"))))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("texts", "prompts would be encoded otherwise"),
        ("scale", "actions or states would be encoded otherwise"),
    ],
)
def test_a_run_goes_on_with_no_other_processor(make_config, tmp_path, monkeypatch, changed, message):
    """Whatever made it another: here texts that an earlier version did not look into, or how a grid is fitted."""
    texts = tmp_path / "texts.json"
    texts.write_text('["push the square"]')
    content = identity._content
    monkeypatch.setattr(lasting_names, "LIBERO_INSTRUCTIONS", texts)
    monkeypatch.setattr(identity, "_content", lambda path: "" if path == texts else content(path))
    config = make_config(instructions=Path("libero"), steps=1)
    train(config, device="cpu")
    assert train(replace(config, steps=2), resume=True, device="cpu").step == 2
    tokenizer = (config.out / LAYOUT / "tokenizer.json").read_bytes()
    if changed == "texts":
        texts.write_text('["zebras jump over quick brown foxes"]')
    else:
        fit = ActionGrid.fit.__func__
        wider = lambda kind, actions, *rest, **more: fit(kind, 1.1 * actions, *rest, **more)  # noqa: E731
        monkeypatch.setattr(ActionGrid, "fit", classmethod(wider))
    with pytest.raises(
        InputError, match=rf"run cannot be resumed, as {message}, by .*; give the same settings"
    ):
        train(replace(config, steps=3), resume=True, device="cpu")
    assert (config.out / LAYOUT / "tokenizer.json").read_bytes() == tokenizer
    shutil.rmtree(config.out / FOLDER)
    assert train(config, device="cpu").finished


def change_a_weight(policy):
    file = policy / "model.safetensors"
    weights = load_file(file)
    weights["multi_modal_projector.linear.bias"] += 0.1
    write_file(weights, file)
    (policy / "SHA256SUMS").unlink()
    return policy


@pytest.mark.parametrize("earlier", [False, True], ids=["now", "begun by an earlier version"])
def test_the_base_of_an_adapter_that_a_run_starts_from_is_compared(
    make, start, dataset, tmp_path, monkeypatch, earlier
):
    base = shutil.copytree(start, tmp_path / "base")
    adapter = train(make("lora", [dataset], policy=str(base), steps=1), device="cpu").model
    config = make("adapt", [dataset], policy=str(adapter), out=tmp_path / "adapted", steps=1)
    identities = loop.settings_identity
    with monkeypatch.context() as patch:
        if earlier:
            unfollowed = lambda config: {k: v for k, v in identities(config).items() if k != "policy.base"}  # noqa: E731
            patch.setattr(loop, "settings_identity", unfollowed)
        train(config, device="cpu")
    assert train(replace(config, steps=2), resume=True, device="cpu").step == 2
    change_a_weight(base)
    with pytest.raises(InputError, match=r"\(policy\.base .*base has changed\); give those, or"):
        train(replace(config, steps=3), resume=True, device="cpu")


def test_a_dataset_may_be_touched_and_moved_but_not_changed(make_config, tmp_path):
    config = make_config(datasets=(DatasetConfig(str(write_dataset(tmp_path / "squares"))),), steps=1)
    train(config, device="cpu")
    for path in (tmp_path / "squares").rglob("*"):
        path.touch()
    assert train(replace(config, steps=2), resume=True, device="cpu").step == 2
    moved = shutil.copytree(tmp_path / "squares", tmp_path / "elsewhere" / "squares")
    elsewhere = replace(config, datasets=(DatasetConfig(str(moved)),), steps=3)
    assert train(elsewhere, resume=True, device="cpu").step == 3
    shutil.rmtree(moved)
    write_dataset(moved, episodes=5)
    with pytest.raises(InputError, match=r"\(datasets\.0 .*squares has changed\); give those"):
        train(replace(elsewhere, steps=4), resume=True, device="cpu")


def test_a_run_goes_on_from_any_working_directory(make, start, dataset, depth_weights, tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(start, here / "policy")
    shutil.copytree(dataset, here / "squares")
    (here / "mapping.yaml").write_text("key: squares\n")
    (here / "spec.yaml").write_text("like: bridge_orig\n")
    monkeypatch.chdir(here)
    named = (
        DatasetConfig("squares", mapping=Path("mapping.yaml")),
        DatasetConfig(os.path.relpath(BRIDGE), spec="spec.yaml"),
    )
    relative = {"policy": "policy", "depth_weights": Path("../depth"), "cache": Path("cache")}
    config = replace(make(steps=1), datasets=named, **relative)
    train(config, device="cpu")
    monkeypatch.chdir(elsewhere)
    kept = kept_config(config.out)
    assert train(replace(kept, steps=2), resume=True, device="cpu").step == 2
    assert list(elsewhere.iterdir()) == [], "nor is the cache another"
    # What is handed on does not tell where that is.
    card = tmp_path / "card"
    main(
        ["export", "--policy", str(config.out), "--out", str(card), "--to", "hub-folder", "--license", "mit"]
    )
    text = (card / "README.md").read_text()
    assert "| fine-tuned from | policy |" in text
    assert str(tmp_path) not in text


def test_names_of_what_is_not_here_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "libero").mkdir()
    config = TrainConfig(
        policy="nano",
        base="owner/name@main",
        depth_weights=Path("nano-wrist"),
        instructions=Path("libero"),
        datasets=(DatasetConfig("lab/blocks"), DatasetConfig("gs://open/bridge", spec="bridge_orig")),
    )
    assert with_lasting_names(config) == config


@pytest.mark.parametrize("mode", ["lora", "adapt"])
def test_checkpoints_leave_the_base_to_its_files(make, dataset, tmp_path, monkeypatch, mode):
    """Adapters that are not trained are kept, too; and a run of an earlier version, which kept the base, goes on."""
    config = make(mode, [dataset], steps=4, save_every=2, keep=5, freeze_vision_tower=True)
    train(config, device="cpu")
    older = replace(config, out=tmp_path / "older")
    with monkeypatch.context() as patch:
        patch.setattr(step, "left_to_base", lambda model, mode, other_depth: frozenset())
        train(older, device="cpu")
    last = FOLDER + "/step_00000004"
    found, before = everything(config.out / last), everything(older.out / last)
    own = re.compile("lora_" if mode == "lora" else r"spatial_embed_tokens|position_embedding_3d")
    weights = {name for name in found if name.startswith("weights/")}
    assert any("vision_tower" in name for name in weights) == (mode == "lora")
    assert all(own.search(name) for name in weights)
    assert before.keys() - found.keys() == {
        name for name in before if name.startswith("weights/") and not own.search(name)
    }
    for run in (config, older):
        halves = replace(run, out=tmp_path / f"halves_{run.out.name}")
        shutil.copytree(run.out / FOLDER / "step_00000002", halves.out / FOLDER / "step_00000002")
        result = train(halves, resume=True, device="cpu")
        again = everything(halves.out / last)
        assert again.keys() == found.keys()
        assert [name for name, tensor in found.items() if not torch.equal(tensor, again[name])] == []
        for file in (older.out / "model").glob("*.safetensors"):
            one, other = load_file(file), load_file(result.model / file.name)
            assert one.keys() == other.keys()
            assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


def test_an_adaptation_is_exported_from_what_it_started_from(make, start, dataset, tmp_path, monkeypatch):
    """From any folder, with its grid and inputs, also where that has moved; without it one sentence says what to do."""
    policy = shutil.copytree(start, tmp_path / "here" / "policy")
    monkeypatch.chdir(policy.parent)
    config = make("adapt", [dataset], policy=policy.name, steps=1, chunk_size=3, add_state=8)
    result = train(config, device="cpu")
    monkeypatch.chdir(tmp_path)
    export(config.out, tmp_path / "again")
    moved = policy.rename(tmp_path / "moved")
    with pytest.raises(
        CheckpointError, match=r"leave to .*policy.* what they do not train, .*; name it with base="
    ):
        export(config.out, tmp_path / "lost")
    other = change_a_weight(shutil.copytree(moved, tmp_path / "other"))
    with pytest.raises(CheckpointError, match=r"other holds other weights than those that .*run"):
        export(config.out, tmp_path / "lost", base=other)
    export(config.out, tmp_path / "found", base=moved)
    for name in ("config.json", "model.safetensors", "processor_config.json"):
        first = (result.model / name).read_bytes()
        assert all((tmp_path / folder / name).read_bytes() == first for folder in ("again", "found"))
