"""The network, tensors in and out: image features with Ego3D, embeddings, hidden states, logits, losses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import SiglipVisionModel
from transformers.modeling_layers import GradientCheckpointingLayer

from spatialvla.batch import IGNORED, Batch
from spatialvla.errors import InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.gemma2 import Gemma2ForCausalLM, Layer, Wanted
from spatialvla.vision.depth import DepthSource, ZoeDepth
from spatialvla.vision.ego3d import Ego3DPositionEncoding, patch_points

PrefixMask = Literal["prefix", "causal"]


@dataclass(frozen=True)
class Output:
    """Logits of every position, float32, and the loss when the batch has labels."""

    logits: Float[torch.Tensor, "B T V"]
    loss: Float[torch.Tensor, ""] | None


@dataclass(frozen=True)
class LossOutput:
    """What training needs, computed at the N positions that predict a label only.

    loss: mean cross-entropy. logits: float32.
    labels, rows: vocabulary ids, and the rows of the batch they are of.
    prompt_hidden: the decoder's state at the last token of each prompt.
    """

    loss: Float[torch.Tensor, ""]
    logits: Float[torch.Tensor, "N V"]
    labels: Int[torch.Tensor, " N"]
    rows: Int[torch.Tensor, " N"]
    prompt_hidden: Float[torch.Tensor, "B D"]


class Projector(nn.Module):
    """From the width of SigLIP to that of the decoder."""

    def __init__(self, vision_size: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(vision_size, hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, N, vision_size) -> (B, N, hidden_size)"""
        return cast(torch.Tensor, self.linear(features))


class StateProjector(nn.Sequential):
    """From the numbers of the arm's state to the width of the decoder."""

    def __init__(self, state_size: int, hidden_size: int) -> None:
        super().__init__(
            nn.Linear(state_size, hidden_size), nn.GELU("tanh"), nn.Linear(hidden_size, hidden_size)
        )


class Network(nn.Module):
    """The network (arXiv 2501.15830). The names of its parts are the keys of published checkpoints.

    regridded: whether `regrid` has carried it over to another grid since it was loaded; grown: whether it was given
    other inputs. An adapter of it says so in its file, because it fits no base that was not.
    base_digest: of the weights around its adapter, see `weights_digest`; None where that is not known.
    """

    def __init__(self, config: SpatialVLAConfig) -> None:
        """Random weights, drawn from torch's global generator."""
        super().__init__()
        self.config = config
        vision_size = config.siglip.hidden_size
        self.vision_tower = SiglipVisionModel(config.siglip)
        self.multi_modal_projector = Projector(vision_size, config.text.hidden_size)
        self.language_model = Gemma2ForCausalLM(config.text)
        self.spatial_embed_tokens = nn.Embedding(config.spatial_token_num, config.text.hidden_size)
        if config.use_vision_zoe:
            points = config.ego3d_patch_reso**2
            self.position_embedding_3d = Ego3DPositionEncoding(points, config.n_freqs, vision_size)
            self.vision_zoe_model = ZoeDepth(config.zoe, config.depth_padding)
        if config.state_size:
            self.state_projector = StateProjector(config.state_size, config.text.hidden_size)
        self.regridded = self.grown = False
        self.base_digest: str | None = None
        self._depth_source: list[DepthSource] = []
        for module in (self.language_model, self.spatial_embed_tokens):
            module.apply(_initialize)

    @classmethod
    def from_config(cls, config: SpatialVLAConfig, *, dtype: torch.dtype = torch.float32) -> Self:
        """A network of this configuration with random weights in `dtype`, never held in a wider one."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return cls(config)
        finally:
            torch.set_default_dtype(before)

    def train(self, mode: bool = True) -> Self:
        """Training mode; what holds no trainable parameter stays in eval mode."""
        super().train(mode)
        for module in self.modules() if mode else ():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                module.eval()
        return self

    def checkpoint_activations(self, enabled: bool = True) -> None:
        """Layers of SigLIP and the decoder keep their inputs only, and compute the rest anew for gradients.

        The gradients stay exactly the same; memory and time are in docs/measurements/training.md. SigLIP's
        layers do so in training mode only.
        """
        recompute: Any = partial(checkpoint, use_reentrant=False)
        for part in self.vision_tower.modules():
            if isinstance(part, GradientCheckpointingLayer):
                part.gradient_checkpointing = enabled
                part._gradient_checkpointing_func = recompute
        for layer in self.language_model.model.layers:
            cast(Layer, layer).checkpoint_activations = enabled

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of what the layers hand on."""
        return self.multi_modal_projector.linear.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where batches have to be."""
        return self.multi_modal_projector.linear.weight.device

    @property
    def depth_source(self) -> DepthSource:
        """What estimates depth where a batch brings none: the checkpoint's ZoeDepth unless set otherwise."""
        return self._depth_source[0] if self._depth_source else self.vision_zoe_model.estimate

    @depth_source.setter
    def depth_source(self, source: DepthSource | None) -> None:
        # Kept in a list, so that a source's weights never become part of this checkpoint.
        self._depth_source = [] if source is None else [source]

    @property
    def estimates_depth_itself(self) -> bool:
        """Whether `depth_source` is the checkpoint's own ZoeDepth."""
        return not self._depth_source

    def depth(self, batch: Batch) -> Float[torch.Tensor, "N S S"]:
        """Meters, float32: the sensor's where the batch has it, else an estimate."""
        if batch.depth is not None and batch.depth_known is None:
            return batch.depth.float()
        with torch.no_grad():
            estimate = self.depth_source(batch.pixel_values)
        if batch.depth is None or batch.depth_known is None:
            return estimate
        return torch.where(batch.depth_known[:, None, None], batch.depth.float(), estimate)

    def siglip_features(self, batch: Batch) -> Float[torch.Tensor, "N patches siglip"]:
        """What each patch shows."""
        pixels = (batch.pixel_values * 2 - 1).to(self.dtype)
        return cast(torch.Tensor, self.vision_tower(pixel_values=pixels).last_hidden_state)

    def ego3d_features(self, batch: Batch) -> Float[torch.Tensor, "N patches siglip"]:
        """Where each patch is, in the camera's frame (§III-A), or the robot's where `ego3d_frame` says so.

        Raises InputError where that needs extrinsics which the batch lacks.
        """
        config = self.config
        if config.needs_extrinsics and batch.extrinsics is None:
            raise InputError(
                "This model's Ego3D works in the robot's frame, and the batch does not say where the camera stands; "
                "pass extrinsics= to the processor."
            )
        points = patch_points(
            self.depth(batch),
            batch.intrinsics,
            config.patch_size,
            config.ego3d_patch_reso,
            batch.extrinsics if config.needs_extrinsics else None,
        )
        return cast(torch.Tensor, self.position_embedding_3d(points, config.workspace))

    def image_features(self, batch: Batch) -> Float[torch.Tensor, "N patches siglip"]:
        """What each patch shows and, with `use_vision_zoe`, where it is."""
        features = self.siglip_features(batch)
        return features + self.ego3d_features(batch) if self.config.use_vision_zoe else features

    def project(
        self, features: Float[torch.Tensor, "N patches siglip"]
    ) -> Float[torch.Tensor, "N patches D"]:
        """Image features as they enter the decoder."""
        return cast(torch.Tensor, self.multi_modal_projector(features) / self.config.text.hidden_size**0.5)

    def encode_images(self, batch: Batch) -> Float[torch.Tensor, "N patches D"]:
        """The projected image features."""
        return self.project(self.image_features(batch))

    def encode_state(self, state: Float[torch.Tensor, "B size"]) -> Float[torch.Tensor, "B D"]:
        """How each arm stands, as it enters the decoder."""
        return cast(
            torch.Tensor, self.state_projector(state.to(self.dtype)) / self.config.text.hidden_size**0.5
        )

    def embed_tokens(self, input_ids: Int[torch.Tensor, "B T"]) -> Float[torch.Tensor, "B T D"]:
        """Vocabulary ids -> embeddings; action tokens have an embedding of their own."""
        first_action = self.config.action_token_begin_idx
        is_action = input_ids >= first_action
        text = self.language_model.model.embed_tokens(input_ids.masked_fill(is_action, 0))
        actions = self.spatial_embed_tokens((input_ids - first_action).clamp(min=0))
        return torch.where(is_action[..., None], actions, text)

    def check_image_tokens(self, batch: Batch) -> None:
        """Raises InputError where a row has more or fewer image tokens than its images and its state take."""
        counts = (batch.input_ids == self.config.image_token_index).sum(dim=1)
        wanted = batch.views * self.config.image_token_num + (batch.state is not None)
        if not bool((counts == wanted).all()):
            raise InputError(
                f"Each row needs {wanted} image tokens, got {counts.tolist()}; "
                "the processor and the model do not belong together."
            )

    def embed(
        self, batch: Batch, images: Float[torch.Tensor, "N patches D"] | None = None
    ) -> Float[torch.Tensor, "B T D"]:
        """Prompt and action tokens embedded, with encoded images and states instead of the image tokens.

        images: of `encode_images`, where they are at hand.
        """
        is_image = batch.input_ids == self.config.image_token_index
        images = self.encode_images(batch) if images is None else images
        embeddings = self.embed_tokens(batch.input_ids).to(images.dtype)
        seen = images.unflatten(0, (len(batch), batch.views)).flatten(1, 2)
        if batch.state is not None:
            seen = torch.cat([seen, self.encode_state(batch.state)[:, None].to(seen.dtype)], dim=1)
        elif self.config.state_size and self.training and torch.is_grad_enabled():
            # Its weights get a gradient, of zero, in every pass: the ranks have to sum up the same ones.
            nothing = self.encode_state(seen.new_zeros(1, self.config.state_size))
            seen = seen + 0 * nothing.to(seen.dtype)
        return embeddings.masked_scatter(is_image[..., None], seen)

    def hidden_states(
        self, batch: Batch, mask: PrefixMask, wanted: Wanted | None = None
    ) -> Float[torch.Tensor, "B T D"]:
        """One pass over the whole batch; its last layer computes the `wanted` tokens alone.

        mask: with "prefix" the prompt (every token without a label) sees itself both ways, with "causal"
        nothing looks ahead. Padding is never seen.
        """
        self.check_image_tokens(batch)
        embeddings = self.embed(batch)
        length = embeddings.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool, device=embeddings.device).tril()
        visible = visible.expand(len(batch), -1, -1)
        if mask == "prefix":
            prompt = batch.attention_mask
            if batch.labels is not None:
                prompt = prompt & (batch.labels == IGNORED)
            visible = visible | prompt[:, None, :]
        visible = visible & batch.attention_mask[:, None, :]
        positions = token_positions(batch.attention_mask)
        return cast(torch.Tensor, self.language_model.model(embeddings, positions, visible, wanted=wanted))

    def forward(self, batch: Batch, mask: PrefixMask = "prefix") -> Output:
        """Logits of every position; with labels also the next-token loss over them.

        Training wants `training_loss`, which never holds the logits of the whole sequence.
        """
        logits = self.language_model.logits(self.hidden_states(batch, mask))
        if batch.labels is None:
            return Output(logits, None)
        targets = batch.labels[:, 1:].masked_fill(batch.labels[:, 1:] < 0, IGNORED)
        return Output(logits, F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, ignore_index=IGNORED))

    def training_loss(self, batch: Batch, mask: PrefixMask = "prefix") -> LossOutput:
        """Next-token cross-entropy over action tokens and `<eos>` (§III-C), without logits of all else."""
        if batch.labels is None:
            raise InputError("This batch has no labels; pass actions= to the processor.")
        places = _predicting(batch.labels)
        hidden = self.hidden_states(batch, mask, places)
        targets = F.pad(batch.labels[:, 1:], (0, 1), value=IGNORED).gather(1, places)
        taken = targets >= 0
        labels = targets[taken]
        logits = self.language_model.logits(hidden[taken])
        rows = taken.nonzero()[:, 0]
        return LossOutput(F.cross_entropy(logits, labels), logits, labels, rows, hidden[:, 0])


def _predicting(labels: Int[torch.Tensor, "B T"]) -> Int[torch.Tensor, "B W"]:
    """The places of the tokens that an action token follows, given or not, beginning with each prompt's last one.

    Rows with fewer of them are filled up with the places behind, or with the last one.
    """
    follows = labels[:, 1:] != IGNORED
    first = follows.int().argmax(dim=1, keepdim=True)
    last = follows.shape[1] - 1 - follows.flip(1).int().argmax(dim=1, keepdim=True)
    widest = int((last - first).max()) + 1
    return (first + torch.arange(widest, device=labels.device)).clamp(max=follows.shape[1])


def token_positions(attention_mask: Bool[torch.Tensor, "B T"]) -> Int[torch.Tensor, "B T"]:
    """Rotary positions: the first token that is not padding is 1, as PaliGemma counts."""
    return attention_mask.long().cumsum(dim=1)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
