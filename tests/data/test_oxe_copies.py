"""Published files with faults, and copies in which somebody has put them right."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from rlds_writer import COLOR, write_steps

from spatialvla.cli.main import main
from spatialvla.data.inspection import inspect
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.specs import SPECS
from spatialvla.data.sources import open_source
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import InputError
from spatialvla.training.config import DatasetConfig
from spatialvla.training.feed.datasets import open_dataset

SWAPPED = COLOR[::-1]
FAULTY = [name for name, spec in SPECS.items() if spec.channels == "bgr"]
T = 4


def steps(spec):
    numbers = {"action": np.linspace(0, 0.1, 7 * T, dtype=np.float32).reshape(T, 7)}
    numbers |= {key: np.zeros((T, 13), np.float32) for key in spec.inputs if key != "action"}
    return {**numbers, spec.instruction: np.array(["pick it up"] * T)}


def color(root, copy, tmp_path, spec=None):
    source = OXESource(root, spec, cache=tmp_path / "cache", copy=copy)
    pixels = pickle.loads(pickle.dumps(source)).episode(0).images([1])
    assert np.ptp(pixels.reshape(-1, 3), axis=0).max() == 0
    return tuple(pixels[0, 0, 0].tolist())


def test_three_datasets_were_published_with_red_and_blue_swapped():
    assert {name.split("_dataset")[0] for name in FAULTY} == {
        "stanford_hydra",
        "utaustin_mutex",
        "berkeley_fanuc_manipulation",
    }


@pytest.mark.parametrize("name", FAULTY)
def test_red_and_blue_are_put_right_once(tmp_path, name):
    spec = SPECS[name]
    original = write_steps(tmp_path / "original" / name, spec, steps(spec))
    assert color(original, "auto", tmp_path) == color(original, "original", tmp_path) == SWAPPED
    assert color(original, "repaired", tmp_path) == COLOR
    # prepare_open_x.sh writes JPEG of 256x256 pixels, or of the size they had, and has not always swapped.
    for size in ((256, 256), spec.size):
        written_anew = write_steps(tmp_path / f"{size}" / name, spec, steps(spec), "jpeg", size)
        with pytest.raises(InputError, match=r"holds JPEG pictures of .*--copy repaired.*--copy original"):
            OXESource(written_anew, cache=tmp_path / "cache")
        for copy, expected in (("repaired", COLOR), ("original", SWAPPED)):
            np.testing.assert_allclose(color(written_anew, copy, tmp_path), expected, atol=3)
    smaller = write_steps(tmp_path / "smaller" / name, spec, steps(spec), size=(64, 64))
    with pytest.raises(InputError, match="holds PNG pictures of 64x64"):
        OXESource(smaller, cache=tmp_path / "cache")
    # A spec of the user's own says what the files are.
    assert color(smaller, "auto", tmp_path, replace(spec, size=None)) == SWAPPED


def test_the_command_line_says_which_copy_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = SPECS["utaustin_mutex"]
    root = write_steps(tmp_path / spec.name, spec, steps(spec), "jpeg")
    with pytest.raises(SystemExit):
        main(["data", "inspect", "--dataset", str(root)])
    assert "--copy repaired" in capsys.readouterr().err
    main(["data", "inspect", "--dataset", str(root), "--copy", "repaired"])
    assert "utaustin_mutex/0.1.0: 1 episodes" in capsys.readouterr().out
    sources = [
        open_dataset(DatasetConfig(str(root), copy=copy), tmp_path) for copy in ("original", "repaired")
    ]
    first, second = (source.episode(0).images([0])[0, 0, 0].tolist() for source in sources)
    assert first == second[::-1]
    np.testing.assert_allclose(second, COLOR, atol=3)


@pytest.mark.parametrize(("channels", "expected"), [("rgb", COLOR), ("bgr", SWAPPED)])
def test_a_spec_file_says_the_channels_of_a_copy(tmp_path, channels, expected):
    spec = SPECS["utaustin_mutex"]
    root = write_steps(tmp_path / spec.name, spec, steps(spec), "jpeg")
    (tmp_path / "mine.yaml").write_text(f"like: utaustin_mutex\nchannels: {channels}\n")
    source = open_source(root, spec=str(tmp_path / "mine.yaml"), cache=tmp_path / "cache")
    np.testing.assert_allclose(source.episode(0).images([0])[0, 0, 0], expected, atol=3)


def test_what_is_seen_in_other_colors_is_another_dataset(tmp_path):
    spec = SPECS["utaustin_mutex"]
    root = write_steps(tmp_path / spec.name, spec, steps(spec))
    prints = {
        OXESource(root, cache=tmp_path / "cache", copy=copy).fingerprint for copy in ("auto", "repaired")
    }
    assert len(prints) == 2


def kuka(folder, kept, spec=SPECS["kuka"]):
    steps = {key: np.full((T, 3), 0.01, np.float32) for key in spec.inputs[:2]}
    steps |= {spec.inputs[2]: np.ones((T, 1), np.float32), spec.instruction: np.array(["pick"] * T)}
    pose, gripper = spec.state.features
    steps |= {pose: np.ones((T, 7), np.float32), gripper: np.ones((T, 1), np.float32)}
    return write_steps(folder / "kuka", spec, steps, kept=kept)


def test_failures_are_left_out_of_samples_and_statistics(tmp_path):
    source = open_source(kuka(tmp_path, [True, False, True, False, False]), cache=tmp_path / "cache")
    assert [len(source.episode(index)) for index in range(5)] == [T, 0, T, 0, 0]
    assert source.episode(1).instruction == ""
    mixture = TrainingMixture.open([source])
    (found,) = mixture.surveys
    assert found.samples.tolist() == [T, 0, T, 0, 0]
    assert (found.damaged, found.uninstructed) == ((), 0)
    statistics = mixture.statistics()["kuka/0.1.0"]
    assert (statistics.num_trajectories, statistics.num_transitions) == (2, 2 * T)
    assert len(mixture.training) == 2 * T
    assert mixture.left_out == (
        "3 of 5 episodes of kuka/0.1.0 have no steps, or the dataset leaves them out.",
    )


def test_inspection_counts_what_is_left_out_apart(tmp_path):
    found = inspect(open_source(kuka(tmp_path, [True, False]), cache=tmp_path / "cache"))
    assert found.lengths.tolist() == [T]
    assert found.instructions == (("pick", 1),)
    assert found.omissions.steps == 1


def test_a_repaired_copy_needs_no_mark_of_success(tmp_path):
    spec = replace(SPECS["kuka"], keep_if=None)
    root = kuka(tmp_path, [True, True], spec)
    with pytest.raises(InputError, match=r"has no 'success', .* kuka .*--copy repaired"):
        open_source(root, cache=tmp_path / "cache")
    source = open_source(root, cache=tmp_path / "cache", copy="repaired")
    assert [len(source.episode(index)) for index in range(2)] == [T, T]
    # Where the mark is there, it holds in every copy.
    failed = kuka(tmp_path / "other", [False, True])
    assert len(open_source(failed, cache=tmp_path / "cache", copy="repaired").episode(0)) == 0
