"""Whole runs: mixtures read from disk, every mode, accumulation, bad batches, and several processes."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from tiny_policy import BRIDGE

from spatialvla.actions.bins import DIMENSION_RANGES
from spatialvla.actions.grids import ActionGrid
from spatialvla.common.json_files import read_json
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.lora_options import LoraOptions
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.policy import Policy
from spatialvla.processor import Processor
from spatialvla.training import loop
from spatialvla.training.bad_steps import NonFiniteLoss
from spatialvla.training.checkpoints.checkpointer import load_weights
from spatialvla.training.checkpoints.export import export
from spatialvla.training.feed.datasets import open_mixture
from spatialvla.training.guidance_config import Guidance
from spatialvla.training.loop import train
from spatialvla.training.optimizer import total_steps
from spatialvla.training.parallel.world import World
from spatialvla.training.recipes import nano
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.build import network_config
from spatialvla.training.step import Learner
from spatialvla.types import Observation

OBSERVATION = Observation(np.full((48, 64, 3), 90, np.uint8), "push the square")


def rows(config, kind):
    found = map(json.loads, (config.out / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["kind"] == kind]


def test_a_mixture_of_kinds_is_trained_on_and_told_apart(make, dataset):
    config = make(workers=2)
    result = train(config, device="cpu")
    row = rows(config, "train")[-1]
    keys = ("bridge_orig/1.0.0", dataset.name)
    assert all(row[f"loss/{key}"] > 0 for key in keys)
    assert {"l1/translation", "l1/rotation", "l1/gripper", "loss/gripper", "memory_gb"} <= set(row)
    assert result.validation["error/quantization"] > 0
    assert set(keys) <= set(Processor.from_pretrained(result.model).statistics)
    saved = read_json(config.out / "config.json")
    assert saved["datasets"][0]["path"] == str(BRIDGE)
    assert saved == read_json(config.out / "checkpoints/step_00000003/config.json")
    policy = Policy.from_pretrained(result.model, dataset="bridge_orig/1.0.0")
    assert policy.act(OBSERVATION).actions.shape == (2, 7)


def test_workers_change_nothing(make, tmp_path):
    configs = [make(out=tmp_path / str(workers), workers=workers) for workers in (0, 2)]
    for config in configs:
        train(config, device="cpu")
    first, second = (load_weights(config.out) for config in configs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_mixture_goes_on_where_it_stopped(make, tmp_path):
    straight = make(out=tmp_path / "straight", steps=4, schedule="cosine")
    train(straight, device="cpu")
    halves = replace(straight, out=tmp_path / "halves", save_every=2)
    update = Learner.update
    calls = []

    def interrupted(self, loaded, *rest):
        calls.append(loaded.names)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(self, loaded, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(halves, device="cpu")
    train(replace(halves, workers=2), resume=True, device="cpu")
    first, second = (load_weights(config.out) for config in (straight, halves))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_accumulating_gives_the_same_weights(make, tmp_path):
    configs = [make(out=tmp_path / str(parts), accumulation=parts) for parts in (1, 4)]
    for config in configs:
        train(config, device="cpu")
    first, second = (load_weights(config.out) for config in configs)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=2e-5, rtol=1e-4, msg=name)


def test_accumulating_weighs_the_auxiliary_loss_by_samples(make, dataset, tmp_path):
    """Which have more or fewer labels, as steps of some are given."""
    guidance = Guidance(privileged=("observation.state[0:3]",), privileged_weight=5.0)
    given = {"datasets": [dataset], "guidance": guidance, "committed_steps": 1, "steps": 1}
    configs = [make(out=tmp_path / str(parts), accumulation=parts, **given) for parts in (1, 8)]
    for config in configs:
        train(config, device="cpu")
    (one,), (many,) = (rows(config, "train") for config in configs)
    for name in ("loss", "privileged_loss", "grad_norm"):
        assert many[name] == pytest.approx(one[name], rel=1e-5), name


def test_a_share_is_split_into_parts_that_fit_unless_told_otherwise(make):
    config = make(batch_size=256)
    assert [config.parts(processes) for processes in (1, 2, 8, 16)] == [8, 4, 1, 1]
    assert replace(config, batch_size=35).parts(1) == 5
    assert replace(config, accumulation=2).parts(8) == 2
    with pytest.raises(InputError, match="cannot be split into 3 equal parts"):
        config.parts(3)
    assert replace(nano(), batch_size=256).parts(1) == 1


@pytest.mark.parametrize("lora", [LoraOptions(), LoraOptions(target="linear+emb+h")], ids=lambda o: o.target)
def test_lora_gives_an_adapter_and_a_merged_model(make, start, tmp_path, lora):
    config = make("lora", ema_decay=0.9, lora=lora)
    result = train(config, device="cpu")
    assert (result.model / "adapter_model.safetensors").exists()
    assert not (result.model / "model.safetensors").exists()
    export(config.out, tmp_path / "merged", merge=True)
    merged = SpatialVLA.from_pretrained(tmp_path / "merged")
    loaded = SpatialVLA.from_pretrained(result.model)
    base = SpatialVLA.from_pretrained(start)
    changed = 0
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
        changed += not torch.equal(base.state_dict()[name], tensor)
    assert changed > 10
    head = "language_model.lm_head.weight"
    assert torch.equal(base.state_dict()[head], merged.state_dict()[head]) == (lora.target == "linear")
    assert Policy.from_pretrained(result.model, dataset="squares").act(OBSERVATION).actions.shape == (2, 7)


def test_adapting_makes_a_new_grid_and_trains_little(make, start, dataset):
    result = train(make("adapt", datasets=[dataset], min_sigma=0.3), device="cpu")
    old, new = Processor.from_pretrained(start).grid, Processor.from_pretrained(result.model).grid
    assert old.bins == new.bins
    assert old != new
    before, after = (SpatialVLA.from_pretrained(folder).state_dict() for folder in (start, result.model))
    learned = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    # The head and the mirrored rows of the text embeddings follow the new grid, but do not learn.
    assert learned == {"spatial_embed_tokens", "position_embedding_3d", "language_model"}
    layer = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(before[layer], after[layer])


def test_a_uniform_grid_for_the_ablation(make, dataset):
    result = train(make(datasets=[dataset], new_grid=True, grid="uniform"), device="cpu")
    edges = Processor.from_pretrained(result.model).grid.edges["roll"]
    np.testing.assert_allclose(np.diff(edges), np.diff(edges)[0])


def test_epochs_count_the_samples(make, dataset):
    config = make(datasets=[dataset], epochs=1.5, steps=10_000, batch_size=4)
    result = train(config, device="cpu")
    told = json.loads((config.out / "config.json").read_text())
    samples = len(open_mixture(config, network_config(config), World(), Progress(config, None)).training)
    assert result.step == math.ceil(1.5 * samples / 4)
    assert (told["epochs"], told["steps"]) == (1.5, config.steps)
    # What comes first ends the run, and the rate has fallen by then.
    assert total_steps(replace(config, steps=7), samples) == 7
    assert total_steps(replace(config, epochs=None, steps=None, minutes=1.0), samples) is None
    with pytest.raises(InputError, match="has no end"):
        replace(config, epochs=None, steps=None)
    with pytest.raises(InputError, match="epochs must be positive"):
        replace(config, epochs=0.0)


def test_given_statistics_take_the_place_of_the_datasets_own(make, dataset, tmp_path):
    plain = make(datasets=[BRIDGE, dataset], out=tmp_path / "plain")
    own = Processor.from_pretrained(train(plain, device="cpu").model).statistics
    stored = own[dataset.name].to_json()
    wide = {name: (2 * np.array(stored["action"][name])).tolist() for name in ("q01", "q99")}
    given = {
        "bridge_orig": own["bridge_orig/1.0.0"].to_json(),
        dataset.name: {**stored, "action": {**stored["action"], **wide}},
    }
    (tmp_path / "ds_stats.json").write_text(json.dumps(given))
    config = replace(plain, out=tmp_path / "given", statistics=tmp_path / "ds_stats.json")
    result = train(config, device="cpu")
    found = Processor.from_pretrained(result.model).statistics
    assert found[dataset.name].to_json()["action"]["q99"] == wide["q99"]
    np.testing.assert_array_equal(found["bridge_orig/1.0.0"].q01, own["bridge_orig/1.0.0"].q01)
    # The actions to be learned are other tokens then.
    assert rows(config, "train")[0]["loss"] != rows(plain, "train")[0]["loss"]
    with pytest.raises(InputError, match="has no statistics of squares"):
        train(
            replace(
                config,
                out=tmp_path / "third",
                datasets=make(datasets=[dataset]).datasets,
                statistics=_only(tmp_path, given),
            ),
            device="cpu",
        )


def _only(folder, given):
    file = folder / "bridge.json"
    file.write_text(json.dumps({"bridge_orig": given["bridge_orig"]}))
    return file


def test_given_gaussians_make_the_grid(make, dataset, tmp_path):
    gaussians = dict.fromkeys(DIMENSION_RANGES, (0.1, 0.7))
    file = tmp_path / "gs.json"
    file.write_text(json.dumps({n: {"mu": mu, "sigma": sigma} for n, (mu, sigma) in gaussians.items()}))
    config = make("lora", datasets=[dataset], new_grid=True, gaussians=file)
    model = train(config, device="cpu").model
    grid = Processor.from_pretrained(model).grid
    assert grid == ActionGrid.from_gaussians(gaussians, bins=grid.bins)
    # The adapter says that its base is to be carried over to this grid.
    assert json.loads((model / "adapter_config.json").read_text())["spatialvla_regridded"] is True
    with pytest.raises(InputError, match="unless new_grid=True; add that"):
        replace(config, new_grid=False)
    with pytest.raises(InputError, match="unless new_grid=True; add that"):
        replace(config, new_grid=False, gaussians=None, grid="uniform")
    with pytest.raises(InputError, match="uniform grid has no Gaussians"):
        replace(config, grid="uniform")


def test_bad_batches_are_left_out_and_counted(make, monkeypatch):
    backward, parts = Learner._backward, []

    def poisoned(self, part, weight, *rest):
        parts.append(part)
        return backward(self, part, float("nan") if len(parts) == 2 else weight, *rest)

    monkeypatch.setattr(Learner, "_backward", poisoned)
    config = make(skip_bad_batches=True)
    result = train(config, device="cpu")
    assert [row["skipped"] for row in rows(config, "train")] == [0, 1, 1]
    assert all(torch.isfinite(t).all() for t in load_weights(config.out).values())
    assert result.finished
    parts.clear()
    with pytest.raises(NonFiniteLoss, match=r"step 2 .* bridge_orig/1\.0\.0 episode \d+ step \d+"):
        train(replace(config, out=config.out / "fatal", skip_bad_batches=False), device="cpu")


def test_replaced_samples_are_told_of_once_and_counted(make, dataset, tmp_path, caplog):
    """Damage that only decoding finds: half of an episode's pictures."""
    root = shutil.copytree(dataset, tmp_path / "squares")
    (file,) = (root / "data").rglob("*.parquet")
    table = pq.read_table(file)
    column = table.column_names.index("observation.images.front")
    pictures = table["observation.images.front"].to_pylist()
    broken = np.flatnonzero(np.array(table["frame_index"]) % 2).tolist()
    for frame in broken:
        pictures[frame]["bytes"] = b"no picture"
    table = table.set_column(
        column, table.schema.field(column), pa.array(pictures, table.schema.field(column).type)
    )
    pq.write_table(table, file)
    console = Console(record=True, width=200)
    config = make(datasets=[root], on_bad="skip", log_every=2, steps=4, held_out=0.0)
    train(config, device="cpu", console=console)
    counts = [row["replaced"] for row in rows(config, "train")]
    assert len(counts) == 2
    assert all(0 < count < 16 for count in counts)
    (warning,) = [record for record in caplog.records if "is damaged" in record.message]
    assert "A sample of squares is damaged" in warning.message
    assert f"{sum(counts)} damaged samples were replaced" in console.export_text()


def test_rollouts_are_played_from_what_is_learned_so_far(make, dataset):
    played = []

    def rollout(folder, out):
        played.append(Policy.from_pretrained(folder, dataset="squares").act(OBSERVATION).actions.shape)
        return {"success": 0.25}

    config = make(datasets=[dataset], steps=4, rollout_every=2)
    train(config, device="cpu", rollout=rollout)
    assert played == [(2, 7)] * 2
    assert [(row["step"], row["success"]) for row in rows(config, "rollout")] == [(2, 0.25), (4, 0.25)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 7, "accumulation": 2}, "cannot be split into 2"),
        ({"mode": "lora", "policy": None}, "give `policy`"),
        ({"held_out": 1.5}, "fraction"),
        ({"datasets": ()}, "nothing to train on"),
        ({"trackers": ("absent",)}, "no tracker 'absent'"),
    ],
)
def test_what_does_not_fit_is_said(make, changes, message):
    with pytest.raises(InputError, match=message):
        train(make(**changes), device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mode": "lora", "lora": LoraOptions(modules_to_save=("absent",))},
            "No module's name ends in 'absent'",
        ),
        ({"committed_steps": 2}, "committed_steps must be less than the 2 steps of a chunk"),
        ({"gaussians": Path("absent.json"), "new_grid": True}, "absent.json"),
        ({"depth_weights": Path("absent")}, "absent is not a checkpoint folder"),
    ],
)
def test_what_a_run_cannot_begin_with_is_refused_before_datasets_are_read(
    make, changes, message, monkeypatch
):
    def read(*arguments):
        raise AssertionError("the datasets are read")

    monkeypatch.setattr(loop, "open_datasets", read)
    with pytest.raises((InputError, CheckpointError), match=message):
        train(make(**changes), device="cpu")


@pytest.mark.parametrize(
    ("guidance", "message"),
    [
        (
            Guidance(privileged=("observation.cube",), privileged_weight=1.0),
            r"squares: The dataset has no 'observation\.cube' to regress; it has .*observation\.square",
        ),
        (
            Guidance(privileged=("observation.state[6:9]",), privileged_weight=1.0),
            r"'observation\.state\[6:9\]' names none or more than the 8 numbers",
        ),
        (
            Guidance(vision_steps=1, privileged=("observation.cube",)),
            r"has no 'observation\.cube' to regress",
        ),
        (
            Guidance(vision_steps=1, privileged=("observation.square",), keypoints=("observation.state",)),
            r"A keypoint has 3 numbers, unlike observation\.state",
        ),
    ],
)
def test_features_that_a_dataset_lacks_are_named_before_it_is_read(
    make, dataset, guidance, message, monkeypatch
):
    monkeypatch.setattr(loop, "mixture_of", lambda *arguments: pytest.fail("the dataset is read"))
    with pytest.raises(InputError, match=message):
        train(make(datasets=[dataset], guidance=guidance), device="cpu")


def test_a_depth_that_no_dataset_has_is_missed_before_it_is_read(make, monkeypatch):
    """Also where only some of the samples are to see it."""
    monkeypatch.setattr(TrainingMixture, "open", lambda *arguments: pytest.fail("the dataset is surveyed"))
    config = make(datasets=[BRIDGE], in_memory=True, guidance=Guidance(depth_mix=0.5))
    monkeypatch.setattr(
        "spatialvla.training.feed.datasets._in_memory", lambda *_: pytest.fail("it is decoded")
    )
    with pytest.raises(InputError, match="has no depth sensor; train with estimated depth alone"):
        train(config, device="cpu")


def test_given_statistics_are_looked_at_before_datasets_are_surveyed(make, monkeypatch):
    monkeypatch.setattr(TrainingMixture, "open", lambda *arguments: pytest.fail("the datasets are surveyed"))
    with pytest.raises(InputError, match=r"absent\.json"):
        train(make(statistics=Path("absent.json")), device="cpu")


@pytest.mark.parametrize(
    "name", ["workers", "eval_frames", "min_sigma", "seed", "committed_steps", "add_state"]
)
def test_numbers_below_their_least_are_refused_at_once(make, name):
    with pytest.raises(InputError, match=f"{name} must be"):
        make(**{name: -1})


PROCESS = """
import sys, json, torch
from dataclasses import replace
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tiny_policy import tiny
from spatialvla.training.config import DatasetConfig
from spatialvla.training.guidance_config import Guidance
from spatialvla.training.recipes import finetune
from spatialvla.training.loop import train
torch.set_num_threads(1)
given = json.loads(sys.argv[2])
given["cache"] = Path(given["cache"])
given["out"] = Path(given["out"])
given["guidance"] = Guidance(**given["guidance"])
given["datasets"] = tuple(DatasetConfig(path) for path in given["datasets"])
train(replace(finetune("full"), **given), device="cpu")
"""


def test_two_processes_learn_what_one_does(make, dataset, start, tmp_path):
    """Through `train` itself, on a mixture, with given tokens, validation and an average of the weights."""
    settings = {
        "datasets": [str(BRIDGE), str(dataset)],
        "policy": str(start),
        "steps": 3,
        "batch_size": 8,
        "accumulation": 2,
        "learning_rate": 1e-3,
        "workers": 0,
        "cache": str(tmp_path / "cache"),
        "precision": "fp32",
        "held_out": 0.25,
        "eval_frames": 16,
        "log_every": 1,
        "ema_decay": 0.9,
        "committed_steps": 1,
        "committed_jitter": 0.3,
        "guidance": {"foreign_tokens": 0.3},
    }
    for size in (1, 2):
        given = json.dumps(settings | {"out": str(tmp_path / str(size))})
        command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), given]
        world = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577"}
        ranks = [
            subprocess.Popen(command, env={**os.environ, **world, "RANK": str(r), "LOCAL_RANK": str(r)})
            for r in range(size)
        ]
        assert [process.wait(timeout=300) for process in ranks] == [0] * size
    one, two = (
        [json.loads(line) for line in (tmp_path / str(size) / "metrics.jsonl").read_text().splitlines()]
        for size in (1, 2)
    )
    for first, second in zip(one, two, strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() - {"kind", "samples_per_s", "data_wait_s", "memory_gb", "seconds"}:
            assert second[name] == pytest.approx(first[name], rel=1e-3, abs=1e-5), name
    first, second = (load_weights(tmp_path / str(size)) for size in (1, 2))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=5e-5, rtol=1e-3, msg=name)
    assert Policy.from_pretrained(tmp_path / "2" / "model", dataset="squares").act(OBSERVATION)
