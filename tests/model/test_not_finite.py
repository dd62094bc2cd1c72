"""NaN and infinity never become an action: logits are checked in every way of decoding, weights when loaded."""

import contextlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from random_decoder import CELLS, SHAPE, TEXT, example
from safetensors.torch import load_file, save_file

from spatialvla import Processor, SpatialVLA
from spatialvla.actions.grids import ActionGrid, Bins
from spatialvla.errors import CheckpointError, NotFiniteError
from spatialvla.kernels.library import available
from spatialvla.model.fast.options import Optimization

CHECKPOINT = Path(__file__).parent.parent / "goldens" / "reference" / "checkpoint"
IMAGE = Image.open(sorted((CHECKPOINT.parent / "images").glob("*.png"))[0]).convert("RGB")
CELLS_OF_GRID = ActionGrid.uniform(Bins(*SHAPE, *SHAPE)).cells

processor = Processor.from_pretrained(CHECKPOINT)


def damaged(name: str, number: float, dtype: torch.dtype = torch.float32) -> SpatialVLA:
    """A model in which one number of a weight was overwritten."""
    model = SpatialVLA.from_pretrained(CHECKPOINT, dtype=dtype)
    with torch.no_grad():
        model.get_parameter(name)[-1, 0] = number
    return model


WEIGHTS = ["multi_modal_projector.linear.weight", "language_model.model.layers.0.mlp.down_proj.weight"]
HEAD = "language_model.lm_head.weight"


@pytest.mark.parametrize("name", [*WEIGHTS, HEAD, "position_embedding_3d.position_embedding_head.3.weight"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_way_of_decoding_says_an_action(name, number):
    model, batch = damaged(name, number), processor([IMAGE], ["open the drawer"])
    good = SpatialVLA.from_pretrained(CHECKPOINT).decode(batch).ids
    first = good.clone()
    first[:, 3:] = -1
    ways = {
        "one by one": lambda: model.decode(batch),
        "sampled": lambda: model.decode(batch, temperature=1.0),
        "behind committed ids": lambda: model.decode(batch, committed_ids=first),
        "with drafts": lambda: model.decode(batch, draft_ids=good),
        "with drafts and a tolerance": lambda: model.decode(
            batch, draft_ids=good, tolerance=100, cells=processor.grid.cells
        ),
        "text": lambda: model.generate(batch, constrained=False),
        "text sampled": lambda: model.generate(batch, constrained=False, temperature=1.0),
    }
    refused = []
    for way, decode in ways.items():
        with contextlib.suppress(NotFiniteError):
            decode()
            continue
        refused.append(way)
    assert refused == list(ways)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (Optimization(), torch.float32),
        (Optimization(), torch.bfloat16),
        (Optimization(weights="int8"), torch.bfloat16),
        pytest.param(
            Optimization(weights="int8", activations="int8"),
            torch.bfloat16,
            marks=pytest.mark.skipif(not available(), reason="needs AVX-512"),
        ),
    ],
)
@pytest.mark.parametrize("name", WEIGHTS)
def test_no_optimized_model_says_an_action(options, dtype, name):
    model = damaged(name, float("nan"), dtype).optimize(options)
    batch = processor([IMAGE], ["open the drawer"])
    good = SpatialVLA.from_pretrained(CHECKPOINT).decode(batch).ids
    with pytest.raises(NotFiniteError):
        model.decode(batch)
    with pytest.raises(NotFiniteError):
        model.decode(batch, draft_ids=good)


@pytest.mark.parametrize("drafts", [False, True])
def test_one_row_suffices(drafts):
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    batch = processor([IMAGE] * 3, ["open the drawer"] * 3, depth=[torch.ones(8, 8).numpy()] * 3)
    good = model.decode(batch).ids
    batch.depth[1, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError):
        model.decode(batch, draft_ids=good if drafts else None)


@pytest.mark.parametrize("slot", range(5))
@pytest.mark.parametrize("tolerance", [0, 1])
def test_an_embedding_that_is_not_finite_shows_behind_its_token(slot, tolerance):
    """The first tokens are sound then; the fault comes up in the middle of the chunk."""
    case = example()
    good = case.model.decode(case.batch).ids
    case.model.spatial_embed_tokens.weight[good[0, slot] - TEXT, 0] = float("nan")
    guesses = torch.where(torch.arange(case.chunk) % 2 == 0, good, case.actions())
    # With a tolerance, a guess may take the damaged token's place.
    for drafts in (None, good, good if tolerance else guesses):
        with pytest.raises(NotFiniteError):
            case.model.decode(case.batch, draft_ids=drafts, tolerance=tolerance, cells=CELLS_OF_GRID)


def test_the_token_of_an_embedding_that_is_never_used_does_no_harm():
    case = example()
    good = case.model.decode(case.batch).ids
    unused = next(token for token in range(2 * CELLS) if token + TEXT not in good)
    case.model.spatial_embed_tokens.weight[unused] = float("nan")
    assert torch.equal(case.model.decode(case.batch).ids, good)


def test_the_compiled_passes_say_no_action():
    batch = processor([IMAGE], ["open the drawer"], pad_to_multiple_of=16)
    model = damaged(WEIGHTS[0], float("nan")).optimize(Optimization(compile=True, batch_sizes=()))
    with pytest.raises(NotFiniteError):
        model.decode(batch)
    with pytest.raises(NotFiniteError):
        model.decode(batch, draft_ids=SpatialVLA.from_pretrained(CHECKPOINT).decode(batch).ids)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_named_when_it_is_loaded(tmp_path, number):
    for file in CHECKPOINT.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(CHECKPOINT / "model.safetensors")
    for name in ("multi_modal_projector.linear.bias", "language_model.lm_head.weight"):
        broken = {key: tensor.clone() for key, tensor in tensors.items()}
        broken[name].view(-1)[3] = number
        save_file(broken, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=rf"{name}.*model.safetensors contains NaN or infinity"):
            SpatialVLA.from_pretrained(tmp_path)


def test_a_weight_that_overflows_in_the_dtype_asked_for_is_named(tmp_path):
    for file in CHECKPOINT.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(CHECKPOINT / "model.safetensors")
    tensors["multi_modal_projector.linear.bias"][3] = 1e6
    save_file(tensors, tmp_path / "model.safetensors")
    SpatialVLA.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="infinity in float16"):
        SpatialVLA.from_pretrained(tmp_path, dtype=torch.float16)
