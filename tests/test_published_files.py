"""The small files of a real published checkpoint (spatialvla-4b-mix-224-pt): read, used, written back."""

import json

import numpy as np
import pytest
import torch

from published_folder import PUBLISHED, standin_tokenizer, write_small_files
from spatialvla import Processor
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.network import Network
from spatialvla.model.published import published_tensors

STATISTICS = json.loads((PUBLISHED / "processor_config.json").read_text())["statistics"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_small_files(folder, standin_tokenizer())
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
