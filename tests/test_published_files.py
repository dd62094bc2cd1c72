"""The small files of a real published checkpoint (spatialvla-4b-mix-224-pt): read, used, written back."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from published_folder import (
    PUBLISHED,
    gemmas_tokenizer,
    standin_tokenizer,
    write_narrow_weights,
    write_small_files,
)
from spatialvla import Observation, Policy, Processor
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.cli.main import main
from spatialvla.errors import InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.network import Network
from spatialvla.model.published import published_tensors

PICTURE = PUBLISHED.parent / "reference" / "images" / "img3_224x224.png"
STATISTICS = json.loads((PUBLISHED / "processor_config.json").read_text())["statistics"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_small_files(folder, standin_tokenizer())
    write_narrow_weights(folder)
    return folder


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_pretrained(folder)


def test_the_config_describes_the_tensors_of_the_published_index():
    config = SpatialVLAConfig.from_folder(PUBLISHED)
    with torch.device("meta"):
        tensors = published_tensors(Network(config))
    index = json.loads((PUBLISHED / "model.safetensors.index.json").read_text())
    assert tensors.keys() == index["weight_map"].keys()
    assert 2 * sum(tensor.numel() for tensor in tensors.values()) == index["metadata"]["total_size"]


@pytest.mark.parametrize("dataset", STATISTICS)
def test_every_dataset_decodes(processor, dataset):
    tokens = np.random.default_rng(0).integers([0, 4096, 8192], [4096, 8192, 8194], (5, 4, 3))
    actions = processor.decode(tokens.reshape(5, 12) + 257153, dataset)
    q01, q99, mask = (np.array(STATISTICS[dataset]["action"][name]) for name in ("q01", "q99", "mask"))
    normalized = processor.grid.decode(tokens)
    expected = np.where(mask, 0.5 * (normalized + 1) * (q99 - q01) + q01, normalized)
    np.testing.assert_allclose(actions, expected, rtol=0, atol=1e-12)
    assert len(STATISTICS) == 28


def test_the_files_are_written_back_byte_for_byte(processor, folder, tmp_path):
    processor.save_pretrained(tmp_path)
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_predict_on_the_complete_folder(folder, capsys):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    published = json.loads((PUBLISHED / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == published["weight_map"].keys()
    words = ["predict", str(PICTURE), "Stelle die Tasse auf den grünen Teller", "--device", "cpu"]
    main([*words, "--policy", str(folder), "--dataset", "bridge_orig/1.0.0"])
    rows = [line for line in capsys.readouterr().out.splitlines() if re.match(r" *[1-4] ", line)]
    policy = Policy.from_pretrained(folder, dataset="bridge_orig/1.0.0", dtype=torch.bfloat16)
    (chunk,) = policy.predict([Observation(Image.open(PICTURE).convert("RGB"), words[2])])
    assert [row.split()[-3:] for row in rows] == [[str(token) for token in step] for step in chunk.tokens]
    with pytest.raises(SystemExit):
        main([*words, "--policy", str(folder)])
    assert "--dataset" in capsys.readouterr().err


def test_serve_on_the_complete_folder(folder):
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    command = [sys.executable, "-m", "spatialvla", "serve", "--policy", str(folder), "--mapping", "plain"]
    command += ["--dataset", "fractal20220817_data/0.1.0", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        ready = process.stdout.readline()
        found = re.fullmatch(r"Ready on ws://127\.0\.0\.1:(\d+)\n", ready)
        assert found, ready
        image = np.asarray(Image.open(PICTURE).convert("RGB"))
        client = WebsocketClientPolicy("127.0.0.1", int(found[1]))
        actions = client.infer({"image": image, "instruction": "把杯子放在盘子上"})["actions"]
    finally:
        process.kill()
        process.wait()
    policy = Policy.from_pretrained(folder, dataset="fractal20220817_data/0.1.0", dtype=torch.bfloat16)
    (chunk,) = policy.predict([Observation(image, "把杯子放在盘子上")])
    np.testing.assert_allclose(actions, chunk.actions, rtol=0, atol=1e-6)


def merged(content: dict, text: str) -> list[int]:
    """Ids by Gemma's rules, written out: spaces are ▁, the earliest merge first, what is unknown is bytes."""
    vocabulary = content["model"]["vocab"]
    pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in content["model"]["merges"])
    ranks = {tuple(pair): rank for rank, pair in enumerate(pairs)}
    pieces = list(text.replace(" ", "▁"))
    while known := [(ranks[p], n) for n, p in enumerate(pairwise(pieces)) if p in ranks]:
        _, n = min(known)
        pieces[n : n + 2] = [pieces[n] + pieces[n + 1]]
    bytes_of = {piece: [f"<0x{byte:02X}>" for byte in piece.encode()] for piece in pieces}
    return [vocabulary[p] for piece in pieces for p in ([piece] if piece in vocabulary else bytes_of[piece])]


@pytest.mark.slow
def test_prompts_get_the_ids_of_the_real_tokenizer(tmp_path):
    content = gemmas_tokenizer(tmp_path)
    write_small_files(tmp_path, content)
    processor = Processor.from_pretrained(tmp_path)
    assert processor.action_token_begin_idx == 257153
    known = {
        "pick up the cup": [18075, 908, 573, 7190],
        "stelle die tasse auf den grünen teller": [235256, 18849, 1303, 89785, 2736, 1600, 147661, 114299],
        "把杯子放在盘子上": [236167, 237388, 235535, 45302, 237311, 118299],
        "поставь чашку на тарелку": [2487, 9044, 235380, 8564, 60400, 1416, 196187, 77976],
        "put the 🥕 on the plate": [1065, 573, 235248, 245225, 611, 573, 8811],
        "𓀀 𐍈": [457, 364, 345, 345, 235248, 457, 361, 358, 353],
    }
    others = ["カップを皿の上に置く", "ضع الكوب على الطبق", "naïve café — 3½ µm", "e\u0301te\u0301"]
    image = np.zeros((224, 224, 3), np.uint8)
    for text in [*known, *others]:
        ids = processor([image], [processor.prompt(text)]).input_ids[0].tolist()
        assert ids[:257] == [257152] * 256 + [2]
        assert ids[257:] == [*merged(content, text), 108], text
        assert ids[257:-1] == known.get(text, ids[257:-1])


@pytest.mark.parametrize("size", [7, 8])
def test_published_statistics_of_states_are_not_those_of_a_state_that_was_added(processor, tmp_path, size):
    """They are of 7 numbers each, in layouts that no file tells."""
    own = StateStatistics(np.zeros(size), np.ones(size))
    names = tuple(f"joint_{number}" for number in range(size))
    grown = replace(processor, state_names=names, state_statistics={"kuka/0.1.0": own})
    grown.save_pretrained(tmp_path)
    loaded = Processor.from_pretrained(tmp_path)
    assert loaded.state_statistics.keys() == {"kuka/0.1.0"}
    np.testing.assert_array_equal(loaded.state_statistics["kuka/0.1.0"].q99, np.ones(size))
    with pytest.raises(InputError, match="no statistics of the states of bridge_orig"):
        loaded.prepare(Image.new("RGB", (9, 9)), "stop", "bridge_orig/1.0.0", state=np.zeros(size))
