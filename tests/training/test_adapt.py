"""Spatial embedding adaptation of a checkpoint: a policy for the new robot, also with other bins."""

import numpy as np
import pytest
import torch
from tiny_policy import TEXT, tiny

from spatialvla import Policy, Processor, SpatialVLA
from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera
from spatialvla.processor import Processor as AnyProcessor
from spatialvla.tokenizer import hugging_face_files, train_tokenizer
from spatialvla.training.start.adapt import adapt
from spatialvla.types import Observation

BINS = Bins(theta=4, phi=4, r=2, roll=2, pitch=2, yaw=2)
CAMERA = Camera(np.array([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]), 32, 32)
ACTIONS = np.random.default_rng(0).normal(0.002, 0.01, (200, 7))


def a_processor(**changes) -> Processor:
    settings = {
        "tokenizer": train_tokenizer(["push the square"], TEXT, 42),
        "grid": ActionGrid.uniform(BINS),
        "statistics": {"old": ActionStatistics.from_actions(ACTIONS * 3)},
        "cameras": {"default": CAMERA},
        "image_size": 32,
        "image_token_num": 16,
        "action_chunk_size": 2,
        "files": hugging_face_files(32, 16),
    }
    return AnyProcessor(**(settings | changes))


def new_robot(bins: Bins) -> tuple[ActionGrid, dict[str, ActionStatistics]]:
    statistics = ActionStatistics.from_actions(ACTIONS)
    return ActionGrid.fit(statistics.normalize(ACTIONS), min_sigma=0.1, bins=bins), {"new": statistics}


@pytest.mark.parametrize(
    "bins", [BINS, Bins(theta=5, phi=6, r=3, roll=3, pitch=3, yaw=3), Bins(2, 2, 2, 1, 1, 1)]
)
def test_the_adapted_checkpoint_is_a_policy_for_the_new_robot(bins, tmp_path):
    torch.manual_seed(0)
    model = SpatialVLA(tiny())
    grid, statistics = new_robot(bins)
    processor = adapt(model, a_processor(), grid, statistics, {"new": CAMERA})
    assert processor.grid == grid
    assert set(processor.statistics) == {"old", "new"}
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    policy = Policy.from_pretrained(tmp_path, dataset="new")
    assert policy.model.config.spatial_token_num == grid.size
    chunk = policy.act(Observation(np.zeros((32, 32, 3), np.uint8), "push the square"))
    assert chunk.actions.shape == (2, 7)
    assert (np.abs(chunk.actions[:, :6]) <= np.abs(ACTIONS[:, :6]).max() + 1e-9).all()
    batch = policy.processor(
        [np.zeros((32, 32, 3), np.uint8)], ["push the square"], "new", actions=ACTIONS[None, :2]
    )
    assert torch.isfinite(policy.model.training_loss(batch).loss)
    first = model.config.action_token_begin_idx
    assert policy.processor.tokenizer.get_vocab_size() == first + grid.size
    assert policy.processor.tokenizer.id_to_token(first) == "<ACTION00000>"
    assert policy.processor.tokenizer.encode("push").ids == a_processor().tokenizer.encode("push").ids


def test_the_same_action_keeps_its_meaning_better_than_without_adaptation():
    """Embeddings that tell where a cell is still tell it on the new grid, and would not if they were kept."""
    old, (new, statistics) = ActionGrid.uniform(BINS), new_robot(BINS)

    def places(grid: ActionGrid) -> np.ndarray:
        return np.repeat(grid.centers["theta"], BINS.phi * BINS.r)

    model = SpatialVLA(tiny())
    with torch.no_grad():
        model.spatial_embed_tokens.weight[: old.n_translation] = torch.from_numpy(places(old)).float()[
            :, None
        ]
    adapt(model, a_processor(), new, statistics)
    told = model.spatial_embed_tokens.weight[: new.n_translation, 0].detach().numpy()
    error, unadapted = np.abs(told - places(new)).mean(), np.abs(places(old) - places(new)).mean()
    assert unadapted > 0.05
    assert error < 0.3 * unadapted


def test_settings_beside_the_tokenizer_follow():
    listed = {"0": {"content": "<pad>"}, str(TEXT): {"content": "<ACTION00000>"}}
    files = {**hugging_face_files(32, 16), "tokenizer_config.json": {"added_tokens_decoder": listed}}
    grid, statistics = new_robot(Bins(2, 2, 2, 1, 1, 1))
    processor = adapt(SpatialVLA(tiny()), a_processor(files=files), grid, statistics)
    contents = processor.files["tokenizer_config.json"]["added_tokens_decoder"]
    assert [entry["content"] for entry in contents.values()] == [
        "<pad>",
        *(f"<ACTION{n:05d}>" for n in range(grid.size)),
    ]


def test_a_processor_of_another_model_is_refused():
    other = a_processor(tokenizer=train_tokenizer(["push the square"], TEXT + 8, 42))
    with pytest.raises(CheckpointError, match=f"begin at {TEXT + 8}, the model's at {TEXT}"):
        adapt(SpatialVLA(tiny()), other, *new_robot(BINS))
