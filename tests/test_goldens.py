"""The published implementation's own outputs on a tiny checkpoint, stage by stage."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from spatialvla import Batch, Processor, SpatialVLA
from spatialvla.model.published import published_name
from spatialvla.vision.ego3d import patch_points

REFERENCE = Path(__file__).parent / "goldens" / "reference"
CASES = json.loads((REFERENCE / "cases.json").read_text())["cases"]
KNOWN_DATASETS = ("bridge_orig/1.0.0", "tiny_robot/0.1.0")
close = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def model() -> SpatialVLA:
    return SpatialVLA.from_pretrained(REFERENCE / "checkpoint")


@pytest.fixture(scope="module", params=["as loaded", "optimized"])
def inference_model(request) -> SpatialVLA:
    loaded = SpatialVLA.from_pretrained(REFERENCE / "checkpoint")
    return loaded if request.param == "as loaded" else loaded.optimize()


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.from_pretrained(REFERENCE / "checkpoint")


def golden(index: int) -> dict[str, torch.Tensor]:
    return load_file(REFERENCE / f"case_tiny56_{index}.safetensors")


def golden_batch(tensors: dict[str, torch.Tensor]) -> Batch:
    rows = len(tensors["in.input_ids"])
    return Batch(
        tensors["in.input_ids"],
        tensors["in.attention_mask"].bool(),
        tensors["in.pixel_values"],
        tensors["in.intrinsic"].expand(rows, 3, 3),
    )


@pytest.mark.parametrize("index", range(3))
def test_processor_makes_the_published_inputs(processor, index):
    case, expected = CASES[index], golden(index)
    texts = case["text"] if isinstance(case["text"], list) else [case["text"]]
    # The published processor fell back to the default camera for a key it did not know; ours refuses the key.
    dataset = case["unnorm_key"] if case["unnorm_key"] in KNOWN_DATASETS else None
    images = [Image.open(REFERENCE / "images" / name) for name in case["images"]]
    batch = processor(images, texts, dataset=dataset)
    assert torch.equal(batch.input_ids, expected["in.input_ids"])
    assert torch.equal(batch.attention_mask, expected["in.attention_mask"].bool())
    torch.testing.assert_close(batch.pixel_values, expected["in.pixel_values"], atol=1e-7, rtol=0)
    for row in batch.intrinsics:
        torch.testing.assert_close(row, expected["in.intrinsic"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("index", range(3))
@torch.no_grad()
def test_vision_stages(inference_model, index):
    model, expected = inference_model, golden(index)
    batch = golden_batch(expected)
    depth = model.depth(batch)
    points = patch_points(depth, batch.intrinsics, 14, 2)
    encoding = model.position_embedding_3d.frequency_encoding(points)
    torch.testing.assert_close(depth[:, None], expected["fp32.depth"], **close)
    torch.testing.assert_close(points, expected["fp32.xyz"], **close)
    torch.testing.assert_close(encoding[:, :1], expected["fp32.freq_encoding_sub"], **close)
    torch.testing.assert_close(model.position_embedding_3d(points), expected["fp32.pos_embed_3d"], **close)
    torch.testing.assert_close(model.encode_images(batch), expected["fp32.image_features"], **close)


@pytest.mark.parametrize("index", range(3))
@torch.no_grad()
def test_prompt_logits_and_greedy_tokens(inference_model, index):
    model, expected = inference_model, golden(index)
    batch = golden_batch(expected)
    logits = model(batch).logits
    real = batch.attention_mask
    torch.testing.assert_close(logits[real], expected["fp32.logits_cols"][real], **close)
    tokens = model.generate(batch, constrained=False, max_new_tokens=expected["fp32.gen_tokens"].shape[1])
    assert torch.equal(tokens, expected["fp32.gen_tokens"])


@pytest.mark.parametrize("index", range(2))
@torch.no_grad()
def test_sliding_window_shorter_than_the_prompt(model, index):
    expected = load_file(REFERENCE / f"case_tiny56_{index}_window12_prefill.safetensors")["logits_window12"]
    decoder = model.language_model.model
    before = decoder.config
    decoder.config = replace(before, sliding_window=12)
    try:
        logits = model(golden_batch(golden(index))).logits
    finally:
        decoder.config = before
    torch.testing.assert_close(logits, expected, **close)


@torch.no_grad()
def test_bfloat16_stays_near_the_published_bfloat16():
    # Geometry stays in float32 here and was rounded there, so only closeness can be asked for.
    model = SpatialVLA.from_pretrained(REFERENCE / "checkpoint", dtype=torch.bfloat16)
    expected = golden(0)
    features = model.encode_images(golden_batch(expected))
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(
        features.float(), expected["bf16.image_features"].float(), atol=0.02, rtol=0.05
    )
    logits = model(golden_batch(expected)).logits[:, -1]
    torch.testing.assert_close(logits, expected["bf16.logits_last"].float(), atol=0.35, rtol=0.05)


@pytest.fixture(scope="module")
def training() -> dict[str, torch.Tensor]:
    return load_file(REFERENCE / "train_tiny56.safetensors")


def training_batch(training: dict[str, torch.Tensor], hide_padding: bool) -> Batch:
    mask = training["batch.attention_mask"].bool()
    return Batch(
        training["batch.input_ids"],
        mask if hide_padding else torch.ones_like(mask),
        training["batch.pixel_values"],
        training["batch.intrinsic"],
        training["batch.labels"],
    )


def test_training_rows_alone(model, training):
    for row in range(3):
        batch = Batch(
            training[f"ex{row}.input_ids"][None],
            training[f"ex{row}.attention_mask"][None].bool(),
            training["batch.pixel_values"][row : row + 1],
            training["batch.intrinsic"][row : row + 1],
            training[f"ex{row}.labels"][None],
        )
        expected = training[f"single{row}.loss"][0]
        torch.testing.assert_close(model(batch).loss, expected, **close)
        torch.testing.assert_close(model.training_loss(batch).loss, expected, **close)


@torch.no_grad()
def test_training_batch_with_hidden_padding_equals_its_rows_alone(model, training):
    batch = training_batch(training, hide_padding=True)
    counts = (batch.labels != -100).sum(dim=1)
    singles = torch.stack([training[f"single{row}.loss"][0] for row in range(3)])
    expected = (singles * counts).sum() / counts.sum()
    torch.testing.assert_close(model.training_loss(batch).loss, expected, **close)


def test_training_loss_logits_and_gradients(training):
    # The published batch lets padding be attended to; an all-true mask asks for just that.
    model = SpatialVLA.from_pretrained(REFERENCE / "checkpoint").train()
    batch = training_batch(training, hide_padding=False)
    output = model(batch)
    torch.testing.assert_close(output.loss.item(), 11.149944305419922, **close)
    real = training["batch.attention_mask"].bool()
    torch.testing.assert_close(output.logits[real], training["logits_cols"][real], **close)
    model.training_loss(batch).loss.backward()
    gradients = {published_name(name): p.grad for name, p in model.named_parameters()}
    checked = 0
    for key, expected in training.items():
        name = key.removeprefix("grad.")
        if key.startswith("grad.") and name in gradients:
            torch.testing.assert_close(gradients[name], expected, atol=1e-5, rtol=1e-4)
            checked += 1
    assert checked == 9
    used = gradients["spatial_embed_tokens.weight"][training["grad.spatial_rows"]]
    torch.testing.assert_close(used, training["grad.spatial_embed_tokens.used"], atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for p in model.vision_zoe_model.parameters())


def test_training_tokens(processor, training):
    actions = training["batch.actions"].numpy()
    published = [row[row >= 1836] - 1836 for row in training["batch.labels"]]
    assert [row.tolist() for row in published] == processor.grid.encode(actions).reshape(3, -1).tolist()
    # Row 1 lies inside q01..q99, so the whole processor can be asked for it, in the dataset's units.
    dataset = "tiny_robot/0.1.0"
    batch = processor(
        [Image.new("RGB", (56, 56))],
        ["put the red block on the plate and then close the microwave door"],
        dataset=dataset,
        actions=processor.statistics[dataset].denormalize(actions[1:2]),
    )
    assert torch.equal(batch.input_ids[0], training["ex1.input_ids"])
    assert torch.equal(batch.labels[0], training["ex1.labels"])
