"""A model to pre-train: what PaliGemma 2 and ZoeDepth know arrives whole, and what is new starts as published."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    ZoeDepthConfig,
    ZoeDepthForDepthEstimation,
)

from spatialvla import Policy, Processor, SpatialVLA
from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera
from spatialvla.model.paligemma import initial_model, paligemma_name
from spatialvla.training.start.initial_processor import initial_processor
from spatialvla.types import Observation

BINS = Bins(theta=4, phi=4, r=2, roll=2, pitch=2, yaw=2)
SIZE = 32
PADDING_ROWS = 7


def a_tokenizer() -> Tokenizer:
    """Like PaliGemma's: special tokens first, <image> last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.train_from_iterator(
        ["pick up the red block"],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False)])
    return tokenizer


@pytest.fixture(scope="module")
def paligemma(tmp_path_factory):
    """A tiny PaliGemma 2, and its folder as transformers writes it, in shards."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("paligemma2")
    tokenizer = a_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"bos_token": "<bos>", "added_tokens_decoder": {"0": {"content": "<pad>", "special": True}}}
        )
    )
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "image_size": SIZE,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "patch_size": 8,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma2",
            "vocab_size": tokenizer.get_vocab_size() + PADDING_ROWS,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 4,
        },
        image_token_index=tokenizer.token_to_id("<image>"),
        projection_dim=48,
    )
    model = PaliGemmaForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder, max_shard_size="100KB")
    return model, folder


@pytest.fixture(scope="module")
def zoedepth(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("zoedepth")
    config = ZoeDepthConfig(
        backbone_config={
            "model_type": "beit",
            "hidden_size": 16,
            "image_size": SIZE,
            "intermediate_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "patch_size": 8,
            "use_relative_position_bias": True,
            "reshape_hidden_states": False,
            "out_indices": [1, 2, 3, 4],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        bottleneck_features=8,
        num_relative_features=4,
        bin_embedding_dim=8,
        bin_configurations=[
            {"name": "nyu", "n_bins": 8, "min_depth": 1e-3, "max_depth": 10.0},
            {"name": "kitti", "n_bins": 8, "min_depth": 1e-3, "max_depth": 80.0},
        ],
        num_patch_transformer_layers=4,
        patch_transformer_hidden_size=128,
        patch_transformer_intermediate_size=16,
        patch_transformer_num_attention_heads=2,
    )
    model = ZoeDepthForDepthEstimation(config).eval()
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def initial(paligemma, zoedepth) -> SpatialVLA:
    torch.manual_seed(2)
    return initial_model(paligemma[1], zoedepth[1], bins=BINS).eval()


def copied(folder, tmp_path):
    """A folder to damage, as one file."""
    tensors = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    for name in ("config.json", "tokenizer.json"):
        if (folder / name).exists():
            (tmp_path / name).write_text((folder / name).read_text())
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path, tensors


@torch.no_grad()
def test_image_features_equal_those_of_transformers(paligemma, initial):
    pixels = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    theirs = paligemma[0].model.vision_tower(pixels).last_hidden_state
    assert torch.allclose(initial.vision_tower(pixel_values=pixels).last_hidden_state, theirs, atol=1e-4)
    projected = paligemma[0].model.multi_modal_projector(theirs)
    assert torch.allclose(initial.multi_modal_projector(theirs), projected, atol=1e-4)


@torch.no_grad()
def test_text_hidden_states_and_logits_equal_those_of_transformers(paligemma, initial):
    ids = torch.randint(0, initial.config.action_token_begin_idx - 1, (2, 10))
    positions = torch.arange(1, 11).expand(2, -1)
    decoder = paligemma[0].model.language_model
    decoder.config.use_bidirectional_attention = False
    causal = torch.ones(10, 10, dtype=torch.bool).tril().expand(2, -1, -1)
    theirs = decoder(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    ours = initial.language_model.model(initial.embed_tokens(ids), positions, causal)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert ours.abs().mean() > 0.1
    text = slice(0, initial.config.action_token_begin_idx)
    logits = paligemma[0].lm_head(theirs)[..., text]
    assert torch.allclose(initial.language_model.logits(ours, text), torch.tanh(logits / 30) * 30, atol=1e-4)


@torch.no_grad()
def test_depth_equals_that_of_transformers(zoedepth, initial):
    pixels = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    theirs = zoedepth[0](pixel_values=pixels).predicted_depth
    assert torch.allclose(initial.vision_zoe_model(pixel_values=pixels).predicted_depth, theirs, atol=1e-4)
    assert not any(p.requires_grad for p in initial.vision_zoe_model.parameters())


def test_every_pretrained_tensor_is_copied(paligemma, zoedepth, initial):
    ours = {paligemma_name(name): tensor for name, tensor in initial.state_dict().items()}
    first = initial.config.action_token_begin_idx
    seen = set()
    for prefix, folder in (("", paligemma[1]), ("vision_zoe_model.", zoedepth[1])):
        for file in folder.glob("*.safetensors"):
            for key, tensor in load_file(file).items():
                name = paligemma_name(prefix + key)
                seen.add(name)
                rows = first if name.endswith("embed_tokens.weight") else len(tensor) if tensor.ndim else None
                assert torch.equal(
                    ours[name][:rows] if tensor.ndim else ours[name], tensor[:rows] if rows else tensor
                )
    new = {name for name in ours if name not in seen}
    assert {name.split(".")[0] for name in new} == {
        "language_model",
        "spatial_embed_tokens",
        "position_embedding_3d",
    }
    assert [name for name in new if name.startswith("language_model")] == ["language_model.lm_head.weight"]


def test_new_tokens_start_at_the_mean_and_the_head_is_untied(initial):
    first = initial.config.action_token_begin_idx
    embeddings = initial.language_model.model.embed_tokens.weight
    head = initial.language_model.lm_head.weight
    assert embeddings.shape == head.shape == (first + 42, 48)
    assert torch.equal(head, embeddings)
    assert head.data_ptr() != embeddings.data_ptr()
    assert torch.allclose(embeddings[first:], embeddings[:first].mean(0).expand(42, -1), atol=1e-7)
    assert torch.equal(initial.spatial_embed_tokens.weight, embeddings[first:])


def test_ego3d_starts_small_and_depends_on_the_seed(paligemma, zoedepth, initial):
    layer = initial.position_embedding_3d.position_embedding_head[0]
    bound = 0.01 * (6 / (layer.in_features + layer.out_features)) ** 0.5
    assert 0.9 * bound < layer.weight.abs().max() <= bound
    torch.manual_seed(3)
    other = initial_model(paligemma[1], zoedepth[1], bins=BINS)
    changed = {n for n, t in initial.state_dict().items() if not torch.equal(other.state_dict()[n], t)}
    assert changed
    assert all(name.startswith("position_embedding_3d") for name in changed)


def test_older_and_newer_names_of_transformers_load_alike(paligemma, zoedepth, initial, tmp_path):
    folder, tensors = copied(paligemma[1], tmp_path)
    newer = {f"model.{k.replace('language_model.model.', 'language_model.')}": v for k, v in tensors.items()}
    assert "model.language_model.layers.0.mlp.up_proj.weight" in newer
    older = {k.replace("vision_tower.", "vision_tower.vision_model."): v for k, v in tensors.items()}
    newer["lm_head.weight"] = newer["model.language_model.embed_tokens.weight"].clone()
    doubled = {
        k.replace("language_model.model.", "language_model.model.model."): v for k, v in tensors.items()
    }
    for kind in (newer, older, doubled):
        save_file(kind, folder / "model.safetensors")
        torch.manual_seed(2)
        again = initial_model(folder, zoedepth[1], bins=BINS).state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in initial.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("multi_modal_projector.linear.bias"),
            r"lacks the tensor multi_modal_projector\.linear\.bias",
        ),
        (lambda t: t.update(surprise=torch.zeros(1)), "does not have: surprise"),
        (
            lambda t: t.update({"multi_modal_projector.linear.bias": torch.zeros(47)}),
            r"multi_modal_projector\.linear\.bias .*\(47,\).*\(48,\)",
        ),
        (
            lambda t: t.update({"language_model.model.embed_tokens.weight": torch.zeros(100, 48)}),
            r"\(100, 48\), too few rows",
        ),
        (lambda t: t.pop("language_model.model.embed_tokens.weight"), "embed_tokens"),
    ],
)
def test_missing_extra_and_misshapen_tensors_are_named(paligemma, zoedepth, tmp_path, change, message):
    folder, tensors = copied(paligemma[1], tmp_path)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        initial_model(folder, zoedepth[1], bins=BINS)


def test_a_damaged_depth_estimator_is_named(paligemma, zoedepth, tmp_path):
    folder, tensors = copied(zoedepth[1], tmp_path)
    key = min(tensors)
    del tensors[key]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{folder} lacks the tensor vision_zoe_model"):
        initial_model(paligemma[1], folder, bins=BINS)


def test_other_kinds_of_models_are_refused(paligemma, zoedepth):
    with pytest.raises(CheckpointError, match="starts from PaliGemma 2 and ZoeDepth"):
        initial_model(zoedepth[1], paligemma[1], bins=BINS)


def test_the_saved_model_is_a_policy(paligemma, initial, tmp_path):
    statistics = ActionStatistics.from_actions(np.random.default_rng(0).normal(size=(50, 7)))
    processor = initial_processor(
        paligemma[1],
        initial.config,
        ActionGrid.uniform(BINS),
        {"robot": statistics},
        {"default": Camera(np.array([[30.0, 0, 16], [0, 30, 16], [0, 0, 1]]), SIZE, SIZE)},
    )
    initial.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = SpatialVLA.from_pretrained(tmp_path)
    assert all(torch.equal(again.state_dict()[n], t) for n, t in initial.state_dict().items())
    assert again.config.grammar == initial.config.grammar
    assert Processor.from_pretrained(tmp_path).action_token_begin_idx == initial.config.action_token_begin_idx
    listed = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert listed[str(initial.config.action_token_begin_idx + 41)]["content"] == "<ACTION00041>"
    chunk = Policy.from_pretrained(tmp_path).act(
        Observation(np.zeros((48, 64, 3), np.uint8), "pick up the block")
    )
    assert chunk.actions.shape == (4, 7)
