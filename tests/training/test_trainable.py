"""What each mode trains: exactly that gets gradients and changes, the rest keeps its bits and its eval mode."""

import numpy as np
import pytest
import torch
from tiny_policy import TEXT, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from spatialvla.batch import IGNORED, Batch
from spatialvla.errors import InputError
from spatialvla.model.lora import add_lora
from spatialvla.model.lora_options import LoraOptions
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.config import TrainConfig
from spatialvla.training.optimizer import parameter_groups
from spatialvla.training.start.trainable import TEXT_EMBEDDINGS, select_trainable


def a_batch() -> Batch:
    rng = np.random.default_rng(0)
    ids = np.full((2, 16 + 3 + 7), 4)
    ids[:, 16:19] = rng.integers(5, TEXT, (2, 3))
    ids[:, 19:] = TEXT + rng.integers(0, 42, (2, 7))
    intrinsics = torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]).expand(2, 3, 3)
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.ones(ids.shape, dtype=torch.bool),
        pixel_values=torch.rand(2, 3, 32, 32),
        intrinsics=intrinsics,
        labels=torch.from_numpy(np.where(np.arange(26) < 19, IGNORED, ids)),
    )


def a_model(mode: str, spatial: bool = False, **options) -> SpatialVLA:
    torch.manual_seed(0)
    model = SpatialVLA(tiny())
    if mode == "lora":
        saved = ("spatial_embed_tokens",) if spatial else ()
        add_lora(model, "base", LoraOptions(rank=2, modules_to_save=saved))
    select_trainable(model, mode, **options)
    return model.train()


def wanted(model: SpatialVLA, mode: str, spatial: bool) -> set[str]:
    names = {name for name, _ in model.named_parameters() if not name.startswith("vision_zoe_model.")}
    if mode == "full":
        return names - {TEXT_EMBEDDINGS}
    if mode == "adapt":
        parts = ("spatial_embed_tokens.", "position_embedding_3d.position_embedding_head.")
        return {name for name in names if name.startswith(parts)}
    return {name for name in names if "lora_" in name} | (
        {"spatial_embed_tokens.weight"} if spatial else set()
    )


@pytest.mark.parametrize(
    ("mode", "spatial", "count"),
    [("full", False, None), ("lora", False, 2 * 23), ("lora", True, 2 * 23 + 1), ("adapt", False, 1 + 6)],
)
def test_exactly_what_the_mode_trains_changes(mode, spatial, count):
    model = a_model(mode, spatial)
    expected = wanted(model, mode, spatial)
    assert count in (None, len(expected))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    # Weight decay would move parameters without a gradient of their own, too.
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        model.training_loss(a_batch()).loss.backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == expected
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == expected


def test_models_from_scratch_train_their_text_embeddings():
    model = a_model("full", text_embeddings=True)
    model.training_loss(a_batch()).loss.backward()
    assert model.get_parameter(TEXT_EMBEDDINGS).grad is not None
    assert not any(p.requires_grad for p in model.vision_zoe_model.parameters())


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_frozen_vision_tower_learns_nothing(mode):
    model = a_model(mode, vision_tower=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {n for n in wanted(model, mode, False) if not n.startswith("vision_tower.")}
    assert not any(module.training for module in model.vision_tower.modules())
    model.training_loss(a_batch()).loss.backward()
    assert not any(parameter.grad is not None for parameter in model.vision_tower.parameters())


@pytest.mark.parametrize("mode", ["full", "lora", "adapt"])
def test_what_is_frozen_stays_in_eval_mode(mode):
    model = a_model(mode)
    model.eval()
    model.train()
    assert not any(module.training for module in model.vision_zoe_model.modules())
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if parameters:
            assert module.training == any(p.requires_grad for p in parameters), name
    assert model.spatial_embed_tokens.training == (mode != "lora")


def test_modes_can_be_changed():
    model = a_model("adapt")
    select_trainable(model, "full")
    assert model.vision_tower.training or model.train().vision_tower.training
    assert {n for n, p in model.named_parameters() if p.requires_grad} == wanted(model, "full", False)


class EmbeddingGradients(TorchDispatchMode):
    """Notes the rows of each gradient of an embedding that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.embedding_dense_backward.default:
            self.rows.append(len(result))
        return result


def test_the_frozen_text_embeddings_gradient_is_never_computed():
    text_rows = tiny().text.vocab_size
    for text_embeddings in (True, False):
        model = a_model("full", text_embeddings=text_embeddings)
        loss = model.training_loss(a_batch()).loss
        with EmbeddingGradients() as noted:
            loss.backward()
        assert 42 in noted.rows
        assert (text_rows in noted.rows) == text_embeddings


def test_lora_needs_adapters():
    model = SpatialVLA(tiny())
    with pytest.raises(InputError, match="no LoRA adapter"):
        select_trainable(model, "lora")


def decaying(model) -> dict[str, bool]:
    """Of each parameter that is trained, whether it decays."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, TrainConfig(weight_decay=0.1))
    return {names[id(p)]: group["weight_decay"] > 0 for group in groups for p in group["params"]}


def test_matrices_decay_and_norms_biases_and_embeddings_do_not():
    found = decaying(a_model("full", text_embeddings=True))
    # Ego3D's MLP and SigLIP's convolution over patches are matrices, whatever they are called.
    for name in (
        "position_embedding_3d.position_embedding_head.0.weight",
        "vision_tower.embeddings.patch_embedding.weight",
        "language_model.lm_head.weight",
        "language_model.model.layers.0.mlp.up_proj.weight",
    ):
        assert found.pop(name), name
    for name in (
        TEXT_EMBEDDINGS,
        "spatial_embed_tokens.weight",
        "vision_tower.embeddings.position_embedding.weight",
    ):
        assert not found.pop(name), name
    for name, decays in found.items():
        assert decays == (
            name.endswith(("proj.weight", "fc1.weight", "fc2.weight", "linear.weight", "3.weight"))
        ), name


def test_adapters_decay_as_what_they_adapt():
    model = SpatialVLA(tiny())
    add_lora(model, "base", LoraOptions(rank=2, target="linear+emb"))
    select_trainable(model, "lora")
    found = decaying(model)
    assert {name for name, decays in found.items() if not decays} == {
        f"spatial_embed_tokens.lora_embedding_{side}.default" for side in "AB"
    }
    assert any(name.startswith("position_embedding_3d.") for name in found)
