"""Scripts for the published code, with transformers' own Auto classes and this package's model behind them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import spatialvla.transformers as registered
from spatialvla import Observation, Policy
from spatialvla.errors import CheckpointError, InputError

REFERENCE = Path(__file__).parent / "goldens" / "reference"
CHECKPOINT = REFERENCE / "checkpoint"
DATASET = "tiny_robot/0.1.0"
PICTURES = [Image.open(path).convert("RGB") for path in sorted((REFERENCE / "images").glob("*.png"))]


@pytest.fixture(scope="module")
def model():
    return AutoModel.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(CHECKPOINT)


def test_the_quick_start_of_the_published_code_gives_the_policys_actions(model, processor):
    policy = Policy.from_pretrained(CHECKPOINT, dataset=DATASET)
    for picture in PICTURES:
        inputs = processor(images=[picture], text="pick the cup", unnorm_key=DATASET, return_tensors="pt")
        outputs = model.predict_action(inputs)
        found = processor.decode_actions(outputs, unnorm_key=DATASET)
        expected = policy.predict([Observation(picture, "pick the cup")])[0]
        np.testing.assert_array_equal(found["actions"], expected.actions)
        first = policy.processor.action_token_begin_idx
        np.testing.assert_array_equal(found["action_ids"] - first, expected.tokens)


@pytest.mark.parametrize("number", range(3))
def test_inputs_and_generated_tokens_are_the_published_ones(model, number):
    expected = load_file(REFERENCE / f"case_tiny56_{number}.safetensors")
    inputs = {
        name: expected[f"in.{name}"] for name in ("input_ids", "attention_mask", "pixel_values", "intrinsic")
    }
    new = expected["fp32.gen_tokens"]
    outputs = model.generate(**inputs, max_new_tokens=new.shape[1], do_sample=False)
    assert torch.equal(outputs[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert torch.equal(outputs[:, inputs["input_ids"].shape[1] :], new)


def test_all_auto_classes_find_it_and_dtype_and_device_are_taken(tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(
        CHECKPOINT, torch_dtype=torch.bfloat16, trust_remote_code=True, low_cpu_mem_usage=True
    ).eval()
    assert isinstance(model, registered.SpatialVLAForConditionalGeneration)
    assert (model.dtype, model.device) == (torch.bfloat16, torch.device("cpu"))
    assert model.to(torch.float32).dtype == torch.float32
    assert AutoModel.from_pretrained(CHECKPOINT, dtype="auto", device_map="cpu").dtype == torch.float32


def test_saved_by_one_and_loaded_by_the_other(model, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    inputs = again(PICTURES[0], "stop")
    assert torch.equal(
        AutoModel.from_pretrained(tmp_path).predict_action(inputs), model.predict_action(inputs)
    )
    assert again.statistics == processor.statistics
    assert (tmp_path / "config.json").read_bytes() == (CHECKPOINT / "config.json").read_bytes()


def test_an_unknown_key_takes_the_default_camera_and_no_other_statistics(model, processor):
    inputs = processor(PICTURES, ["stop", "go"], unnorm_key="nobody/1.0.0")
    assert torch.equal(inputs["intrinsic"], processor(PICTURES, ["stop", "go"])["intrinsic"])
    outputs = model.predict_action(inputs)
    with pytest.raises(InputError, match="no dataset 'nobody"):
        processor.decode_actions(outputs[:1], "nobody/1.0.0")
    with pytest.raises(InputError, match=r"outputs of one image, got 2.*outputs\[i : i \+ 1\]"):
        processor.decode_actions(outputs, DATASET)


def test_what_would_change_the_model_is_refused(processor):
    for asked in ({"quantization_config": {"load_in_4bit": True}}, {"subfolder": "other"}, {"n_freqs": 3}):
        with pytest.raises((InputError, OSError), match=f"{next(iter(asked))}|other"):
            registered.SpatialVLAForConditionalGeneration.from_pretrained(CHECKPOINT, **asked)
    with pytest.raises(InputError, match="leave the two out"):
        processor(PICTURES[0], "stop", do_normalize=True)
    with pytest.raises(CheckpointError):
        registered.SpatialVLAProcessor.from_pretrained(CHECKPOINT / "nowhere")
