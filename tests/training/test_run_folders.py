"""What a run leaves behind: a policy that knows its dataset, found by the run's own folder."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny_policy import BRIDGE

from spatialvla.actions.statistics_file import DatasetStatistics, write_statistics
from spatialvla.cli.main import main
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.folders import lasting_name, resolve_folder
from spatialvla.model.loading import stored_config
from spatialvla.policy import Policy
from spatialvla.processor import Processor
from spatialvla.training.checkpoints.export import export
from spatialvla.training.loop import train
from spatialvla.training.start.build import network_config
from spatialvla.training.step import Learner
from spatialvla.types import Observation

OBSERVATION = Observation(np.full((48, 64, 3), 90, np.uint8), "push the square")


@pytest.mark.parametrize("mode", ["full", "lora", "adapt"])
def test_a_fine_tuned_policy_acts_in_the_units_of_its_new_dataset(make, start, mode, tmp_path):
    config = make(mode, datasets=[BRIDGE])
    train(config, device="cpu")
    policy = Policy.from_pretrained(config.out)
    assert policy.dataset == "bridge_orig/1.0.0"
    assert set(policy.processor.statistics) == {"squares", "bridge_orig/1.0.0"}
    named = Policy.from_pretrained(config.out / "model", dataset="bridge_orig/1.0.0")
    np.testing.assert_array_equal(policy.act(OBSERVATION).actions, named.act(OBSERVATION).actions)
    # Fine-tuned once more, on two datasets, it is nobody's robot's.
    again = make("full", policy=str(tmp_path / "whole"), out=tmp_path / "again")
    main(
        [
            "export",
            "--policy",
            str(config.out),
            "--out",
            str(tmp_path / "whole"),
            *(["--merge"] * (mode == "lora")),
        ]
    )
    assert Policy.from_pretrained(tmp_path / "whole").dataset == "bridge_orig/1.0.0"
    train(again, device="cpu")
    stored = json.loads((again.out / "model" / "processor_config.json").read_text())
    assert "default_dataset" not in stored
    assert len(Processor.from_pretrained(again.out).statistics) == 2


def test_a_policy_of_datasets_that_are_scaled_alike_acts_without_being_told_which(
    make, start, dataset, tmp_path
):
    more = shutil.copytree(dataset, tmp_path / "more_squares")
    statistics = tmp_path / "statistics.json"
    write_statistics(statistics, DatasetStatistics(Processor.from_pretrained(start).statistics["squares"]))
    config = make(datasets=[dataset, more], statistics=statistics, steps=1)
    train(config, device="cpu")
    assert Policy.from_pretrained(config.out).dataset == "squares"
    # In other units the same numbers are other motions.
    apart = make(datasets=[BRIDGE, dataset], statistics=statistics, steps=1, out=tmp_path / "apart")
    train(apart, device="cpu")
    assert Processor.from_pretrained(apart.out).default_dataset is None


def test_a_default_without_statistics_is_refused(start, tmp_path):
    folder = shutil.copytree(start, tmp_path / "model")
    stored = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**stored, "default_dataset": "other"}))
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="no statistics of its default dataset other"):
        Processor.from_pretrained(folder)


def test_a_run_stands_for_its_newest_model(make, dataset, capsys):
    config = make("lora", datasets=[dataset], steps=4, rollout_every=2)
    seen = []

    def rollout(folder, out):
        seen.append(resolve_folder(config.out))
        return {"success": 0.0}

    train(config, device="cpu", rollout=rollout)
    rollouts = config.out / "rollouts"
    assert seen == [rollouts / "step_00000002" / "model", rollouts / "step_00000004" / "model"]
    assert resolve_folder(config.out) == config.out / "model"
    assert lasting_name(config.out) == str(config.out / "model")
    # Every verb with a --policy asks the same function.
    picture = config.out / "picture.png"
    Image.fromarray(OBSERVATION.image).save(picture)
    main(["predict", str(picture), "push the square", "--policy", str(config.out), "--device", "cpu"])
    assert "gripper" in capsys.readouterr().out


def test_a_run_without_a_model_says_how_to_make_one(make, dataset, capsys):
    config = make(datasets=[dataset])
    train(config, device="cpu")
    shutil.rmtree(config.out / "model")
    with pytest.raises(CheckpointError, match=r"no model yet; .*spatialvla export --policy .* --out FOLDER"):
        resolve_folder(config.out)
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "finetune",
                "--policy",
                str(config.out),
                "--dataset",
                str(dataset),
                "--out",
                str(config.out / "new"),
            ]
        )
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a training run that has no model yet" in line


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_another_length_of_chunk_goes_through_training_into_the_checkpoint(make, dataset, mode, tmp_path):
    config = make(mode, datasets=[dataset], chunk_size=3)
    result = train(config, device="cpu")
    export(config.out, tmp_path / "whole", merge=mode == "lora")
    for folder in (result.model, tmp_path / "whole"):
        policy = Policy.from_pretrained(folder)
        assert stored_config(folder).action_chunk_size == policy.processor.action_chunk_size == 3
        assert policy.act(OBSERVATION).actions.shape == (3, 7)
    # And on: the policy's own length is kept unless another is asked for.
    again = make("full", datasets=[dataset], policy=str(tmp_path / "whole"), out=tmp_path / "again")
    assert network_config(again).action_chunk_size == 3
    assert network_config(replace(again, chunk_size=5)).action_chunk_size == 5
    with pytest.raises(InputError, match="chunk_size must be at least 1"):
        replace(again, chunk_size=0)


def test_a_longer_chunk_is_learned_whole(make, dataset):
    """Each sample has 3 tokens a step and <eos> to learn."""
    seen = []
    update = Learner.update

    def noted(self, loaded, *rest):
        seen.append(loaded.batch.labels)
        return update(self, loaded, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "update", noted)
        train(make(datasets=[dataset], chunk_size=5, steps=1), device="cpu")
    assert ((seen[0] >= 0).sum(dim=1) == 3 * 5 + 1).all()
