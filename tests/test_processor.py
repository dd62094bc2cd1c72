"""The processor: what it converts, what it refuses, and that tokens come back as the actions they were made from."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spatialvla import Processor
from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import CheckpointError, InputError

CHECKPOINT = Path(__file__).parent / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
processor = Processor.from_pretrained(CHECKPOINT)


def one(image=PICTURE, prompt="stop", **options):
    return processor([image], [prompt], **options)


def test_gray_and_rgba_images_are_converted():
    gray = PICTURE[..., 0]
    rgba = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    plain = one().pixel_values
    assert plain.is_contiguous(), "compiled vision would compile anew for another order in memory"
    assert torch.equal(one(rgba).pixel_values, plain)
    assert torch.equal(one(Image.fromarray(PICTURE)).pixel_values, plain)
    for image in (gray, gray[..., None], Image.fromarray(gray)):
        pixels = one(image).pixel_values
        assert torch.equal(pixels[:, 0], pixels[:, 1])
        assert torch.equal(pixels[:, 0], pixels[:, 2])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PICTURE / 255, "uint8, got float64"),
        (PICTURE[..., :2], r"\(H, W, 3\), got \(48, 64, 2\)"),
        (PICTURE[None], r"got \(1, 48, 64, 3\)"),
        (PICTURE[:0], r"got \(0, 64, 3\)"),
    ],
)
def test_unusable_images(image, message):
    with pytest.raises(InputError, match=message):
        one(image)


def test_intrinsics_follow_the_resize():
    given_k = np.array([[100.0, 0, 30], [0, 90, 20], [0, 0, 1]])
    batch = one(intrinsics=[given_k])
    expected = torch.tensor([[100 * 56 / 64, 0, 30 * 56 / 64], [0, 90 * 56 / 48, 20 * 56 / 48], [0, 0, 1.0]])
    torch.testing.assert_close(batch.intrinsics[0], expected)
    assert not torch.equal(one(dataset=DATASET).intrinsics, one(dataset="bridge_orig/1.0.0").intrinsics)
    assert torch.equal(one(dataset=None).intrinsics, one(dataset="default").intrinsics)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros((3, 3)), "form"),
        (np.diag([0.0, 1, 1]), "singular"),
        (np.full((3, 3), np.nan), "NaN"),
        (np.eye(4), r"3x3 matrix, got shape \(4, 4\)"),
        ([[60, 0, 32], [0, 60], [0, 0, 1]], "3x3 matrix of numbers"),
        (np.eye(3), "focal length of fx = 1 "),
        (np.diag([1e-20, 1e-20, 1]), "focal length"),
        (np.diag([1e9, 60, 1]), "focal length"),
        (np.array([[60, 0, 1e30], [0, 60, 24], [0, 0, 1]]), "principal point at cx"),
        (np.array([[60, 0, 32], [0, 60, -40], [0, 0, 1]]), "principal point at cy"),
        (np.array([[60, 1e38, 32], [0, 60, 24], [0, 0, 1]]), "skew"),
        (np.array([[600, 0, 320], [0, 600, 240], [0, 0, 1.0]]), "pixels of the picture as it is sent"),
    ],
)
def test_unusable_intrinsics(matrix, message):
    with pytest.raises(InputError, match=message):
        one(intrinsics=[matrix])


def test_depth_travels_in_meters():
    depth = np.full((24, 32), 1.5)
    depth[:, 16:] = 3.0
    batch = one(depth=[depth])
    assert batch.depth.shape == (1, 56, 56)
    assert set(batch.depth.unique().tolist()) == {1.5, 3.0}


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.zeros((4, 4)), "no reading"),
        (-np.ones((4, 4)), "negative"),
        (np.full((4, 4), 900.0), "reaches 900 meters"),
        (np.full((4, 4), 1e-30), "no farther than 1e-30 meters"),
        (np.diag([0.002, 0, 0, 0]), "no farther than 0.002 meters"),
        (np.diag([1e30, 1, 1, 1]), "meters, not millimeters"),
        (np.ones((4, 4), dtype=np.uint16), "meters, got uint16"),
        (np.ones((4, 4, 1)), "got float64"),
    ],
)
def test_unusable_depth(depth, message):
    with pytest.raises(InputError, match=message):
        one(depth=[depth])


def test_depth_has_the_aspect_of_its_picture():
    """In a resolution of its own, which may round the aspect; or it is an estimator's square."""
    height, width = PICTURE.shape[:2]
    own = ((height, width), (2 * height, 2 * width), (height // 2, width // 2), (height, width - 1))
    for shape in (*own, (56, 56)):
        assert one(depth=[np.full(shape, 1.5)]).depth.shape == (1, 56, 56)
    for shape in ((width, height), (height, 2 * width)):
        with pytest.raises(InputError, match=f"Depth of {shape[1]} x {shape[0]} pixels has another aspect"):
            one(depth=[np.full(shape, 1.5)])
    with pytest.raises(InputError, match="its rows differ in length"):
        one(depth=[[[1.0, 1.0], [1.0]]])
    with pytest.raises(InputError, match="the rows of this one differ in length"):
        one([[[0, 0, 0]], [[0, 0, 0]] * 2])


def test_holes_of_the_sensor_are_filled_as_everywhere():
    depth = np.full((24, 32), 1.5)
    depth[:, 16:] = 3.0
    holes = depth.copy()
    holes[:, 20:24] = 0
    assert torch.equal(one(depth=[holes]).depth, one(depth=[depth]).depth)


def test_batches_must_match_and_hold_something():
    with pytest.raises(InputError, match="empty"):
        processor([], [])
    with pytest.raises(InputError, match="1 images and 2 prompts"):
        processor([PICTURE], ["a", "b"])
    for single in (
        (PICTURE, "stop"),
        (Image.fromarray(PICTURE), "stop"),
        ([PICTURE], "stop"),
        (PICTURE, ["stop"]),
    ):
        with pytest.raises(
            InputError, match=r"are lists; of one image write processor\(\[image\], \[prompt\]\)"
        ):
            processor(*single)
    with pytest.raises(InputError, match="1 images and 2 depth maps"):
        one(depth=[np.ones((4, 4))] * 2)


def test_unknown_datasets_name_the_closest():
    with pytest.raises(InputError, match=r"'bridge_orig/1\.0'.*bridge_orig/1\.0\.0"):
        one(dataset="bridge_orig/1.0")
    tokens = torch.tensor([[1836, 1836 + 128, 1836 + 192] * 2])
    with pytest.raises(InputError, match=r"tiny_robot/0\.1\.0"):
        processor.decode(tokens, "tiny_robot")
    for none in (None, "default"):
        with pytest.raises(InputError, match="Name the dataset whose statistics scale the actions"):
            processor.decode(tokens, none)


def test_prompts():
    assert torch.equal(one(prompt="<image>stop").input_ids, one(prompt="stop").input_ids)
    with pytest.raises(InputError, match="empty"):
        one(prompt="  ")
    with pytest.raises(InputError, match="too long"):
        one(prompt="put the cup on the plate " * 400)
    for token in ("<ACTION00003>", "<eos>", "a <image> b"):
        with pytest.raises(InputError, match="reserved"):
            one(prompt=f"pick {token} up")
    with pytest.raises(InputError, match="strings"):
        one(prompt=3)
    for undecoded in ("caf\udce9", "\ud800"):  # as a terminal in latin-1 and as JSON gives it
        with pytest.raises(InputError, match="no text; type or save it in UTF-8"):
            one(prompt=undecoded)
    for wrong in (None, 3, b"pick"):
        with pytest.raises(InputError, match="An instruction is a string, not a"):
            Processor.prompt(wrong)


def test_inference_prompts_are_padded_to_few_lengths():
    prompts = ["stop", "put the red block on the plate and then close the microwave door"]
    tight = processor([PICTURE] * 2, prompts)
    padded = processor([PICTURE] * 2, prompts, pad_to_multiple_of=16)
    more = padded.input_ids.shape[1] - tight.input_ids.shape[1]
    assert 0 < more < 16
    assert (padded.input_ids.shape[1] - processor.image_token_num) % 16 == 0
    assert torch.equal(padded.input_ids[:, more:], tight.input_ids)
    assert torch.equal(padded.attention_mask[:, more:], tight.attention_mask)
    assert not padded.attention_mask[:, :more].any()
    again = processor([PICTURE] * 2, prompts, pad_to_multiple_of=padded.input_ids.shape[1] - 16)
    assert again.input_ids.shape == padded.input_ids.shape
    with pytest.raises(InputError, match="pad_to_multiple_of must be at least 1"):
        one(pad_to_multiple_of=0)


@given(seed=st.integers(0, 2**32 - 1))
def test_actions_return_within_their_cell(seed):
    numbers = np.random.default_rng(seed)
    statistics = processor.statistics[DATASET]
    normalized = numbers.uniform(-1, 1, (1, 2, 7))
    normalized[..., 6] = numbers.integers(0, 2, (1, 2))
    actions = statistics.denormalize(normalized)
    batch = one(dataset=DATASET, actions=actions)
    tokens = batch.labels[batch.labels >= 1836].reshape(1, -1)
    again = processor.grid.encode(statistics.normalize(processor.decode(tokens, DATASET)))
    # This dataset normalizes the gripper, too, so its cell is decided by the normalized value.
    assert np.array_equal(again[..., 1:], processor.tokens(tokens)[..., 1:])
    assert batch.labels[0, -1] == 1
    assert (batch.labels[0, :-7] == -100).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_the_actions_of_a_chunk_lead_back_to_its_tokens(seed):
    numbers = np.random.default_rng(seed)
    tokens = np.stack([numbers.integers(*kind, (2, 3)) for kind in processor.grid.ranges], axis=-1)
    rounded = processor.actions(tokens, DATASET).astype(np.float32)
    np.testing.assert_array_equal(processor.encode(rounded.astype(np.float64), DATASET), tokens)


def test_actions_need_the_right_shape_and_numbers():
    with pytest.raises(InputError, match=r"\(B, 2, 7\), got \(1, 3, 7\)"):
        one(dataset=DATASET, actions=np.zeros((1, 3, 7)))
    with pytest.raises(InputError, match="finite"):
        one(dataset=DATASET, actions=np.full((1, 2, 7), np.nan))


def test_tokens_that_are_no_actions_are_refused():
    with pytest.raises(InputError, match="where a translation token belongs"):
        processor.decode(torch.tensor([[5, 1964, 2028]]), DATASET)
    with pytest.raises(InputError, match="where a gripper token belongs"):
        processor.decode(torch.tensor([[1836, 1964, 1964]]), DATASET)
    with pytest.raises(InputError, match=r"\(B, 3 \* steps\)"):
        processor.decode(torch.tensor([[1836, 1964]]), DATASET)


def test_a_grid_of_another_size_is_refused():
    with pytest.raises(CheckpointError, match="8194 tokens"):
        replace(processor, grid=ActionGrid.uniform())


def test_saving_keeps_everything(tmp_path):
    processor.save_pretrained(tmp_path)
    again = Processor.from_pretrained(tmp_path)
    assert again.grid == processor.grid
    assert again.statistics[DATASET].to_json() == processor.statistics[DATASET].to_json()
    assert torch.equal(again([PICTURE], ["stop"], dataset=DATASET).input_ids, one(dataset=DATASET).input_ids)
    assert again.extra == processor.extra | again.grid.to_json() | {"statistics": again.extra["statistics"]}


def test_every_row_can_be_of_its_own_dataset():
    keys = [DATASET, "bridge_orig/1.0.0", DATASET]
    actions = np.random.default_rng(0).uniform(-0.02, 0.02, (3, 2, 7))
    together = processor([PICTURE] * 3, ["stop"] * 3, keys, actions=actions)
    tokens = together.labels[together.labels >= 1836].view(3, -1)
    decoded = processor.decode(tokens, keys)
    for row, key in enumerate(keys):
        alone = one(dataset=key, actions=actions[row : row + 1])
        assert torch.equal(together.intrinsics[row], alone.intrinsics[0])
        assert torch.equal(together.labels[row], alone.labels[0])
        np.testing.assert_array_equal(decoded[row], processor.decode(tokens[row : row + 1], key)[0])
    assert not torch.equal(together.labels[0], together.labels[1])
    with pytest.raises(InputError, match="Got 3 rows and 2 datasets"):
        processor([PICTURE] * 3, ["stop"] * 3, keys[:2])


@pytest.mark.parametrize(
    ("path", "number", "sentence"),
    [
        (("bin_policy", "rotation", "roll_bins", -1), 1e30, "reach 1e\\+30, but actions are normalized"),
        (("bin_policy", "rotation", "yaw_bins", 0), -1e308, "but actions are normalized"),
        (("bin_policy", "translation", "r_bins", -1), float("inf"), "finite, ascending"),
        (("statistics", "tiny_robot/0.1.0", "action", "q99", 0), 1e30, "no robot's motion"),
        (("action_chunk_size",), float("inf"), "cannot be used"),
    ],
)
def test_a_file_whose_numbers_would_move_an_arm_anywhere_is_refused(tmp_path, path, number, sentence):
    folder = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    stored = json.loads((folder / "processor_config.json").read_text())
    place = stored
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = number
    (folder / "processor_config.json").write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match=sentence):
        Processor.from_pretrained(folder)
