"""What a run tells before its first step, in the numbers that it then trains with."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console
from tiny_policy import BRIDGE

from spatialvla.training.config import DatasetConfig
from spatialvla.training.loop import train


def told(config, **options) -> str:
    written = io.StringIO()
    train(config, device="cpu", console=Console(file=written, width=200), **options)
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def test_recipe_data_device_parameters_and_output(make, dataset):
    config = make("lora", datasets=[BRIDGE, dataset], lora=replace(make().lora, rank=2))
    text = told(config)
    assert re.search(r"^recipe +\S+model, mode lora \(rank 2 on linear\)$", text, re.M)
    assert re.search(
        r"^schedule +3 steps \([\d.]+ epochs\), 8 samples a step; rate 0\.001, linear", text, re.M
    )
    assert re.search(r"^device +cpu, fp32$", text, re.M)
    assert re.search(
        r"^trained +[\d.]+ k of [\d.]+ k parameters \(vision_tower .*\); [\d.]+ k are frozen$", text, re.M
    )
    assert re.search(rf"^output +{re.escape(str(config.out))}$", text, re.M)
    # 4 episodes of 12 steps, one of them held out; weight 2 doubles its share.
    rows = dict(re.findall(r"^ +(\S+) +(\d.*%)", text, re.M))
    assert rows[dataset.name].split()[:3] == ["4", "1", "36"]
    samples = {key: int(row.split()[2]) for key, row in rows.items()}
    share = 2 * 36 / (2 * 36 + samples["bridge_orig/1.0.0"])
    assert rows[dataset.name].split()[3] == f"{share:.1%}"


def test_the_parameters_that_are_trained_are_counted(make, dataset):
    text = told(make("adapt", datasets=[dataset]))
    parts = re.search(r"^trained +(\S+) k of .* \((.*)\);", text, re.M)
    assert {part.split()[0] for part in parts[2].split(", ")} == {
        "spatial_embed_tokens",
        "position_embedding_3d",
    }
    assert "on a new fitted grid" in text


def test_parts_of_a_batch_and_time_are_told_and_a_run_that_goes_on_says_so(make, dataset):
    config = make(datasets=[dataset], steps=4, minutes=30.0, accumulation=4)
    assert "4 steps (0.9 epochs) or 30 minutes, 8 samples a step" in (first := told(config))
    assert "cpu, 4 parts of 2 samples, fp32" in first
    assert "behind it" not in first
    again = told(replace(config, steps=6), resume=True)
    assert "6 steps" in again
    assert "4 steps are behind it" in again


@pytest.mark.parametrize("key", ["[bold]mine[/bold]", "\x1b[31mred"])
def test_a_datasets_name_is_text(make, dataset, key):
    text = told(replace(make(), datasets=(DatasetConfig(str(dataset), key=key),), steps=1))
    assert "\x1b[31m" not in text
    assert "[bold]mine[/bold]" in text or "mine" not in key
