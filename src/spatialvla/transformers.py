"""Hugging Face's Auto classes: `import spatialvla.transformers`, and they load SpatialVLA without remote code.

What scripts for the published code call is here with the same names: `AutoModel`, `AutoProcessor`,
`model.predict_action(inputs)`, `processor.decode_actions(outputs, unnorm_key)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    PretrainedConfig,
)

from spatialvla.batch import Batch
from spatialvla.errors import InputError
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor

_OF_THE_HUB = frozenset(
    ["cache_dir", "force_download", "local_files_only", "proxies", "subfolder", "code_revision", "_from_auto"]
)
_WITHOUT_EFFECT = frozenset(
    [
        "trust_remote_code",
        "adapter_kwargs",
        "low_cpu_mem_usage",
        "attn_implementation",
        "use_safetensors",
        "use_fast",
    ]
)


class SpatialVLAConfig(PretrainedConfig):
    """What config.json says, for Auto classes to choose by; the model reads it itself."""

    model_type = "spatialvla"


class SpatialVLAForConditionalGeneration(nn.Module):
    """A `SpatialVLA`, called as the published code's class is.

    model: what everything else of this package takes.
    """

    config_class = SpatialVLAConfig

    def __init__(self, model: SpatialVLA) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        config: SpatialVLAConfig | None = None,
        **others: object,
    ) -> Self:
        """As `SpatialVLA.from_pretrained`.

        dtype, torch_dtype: of the weights; float32 unless given, "auto" too. device_map: one device, or "auto".
        Raises InputError for arguments that would change what is loaded, CheckpointError for files that are broken.
        """
        _check_known(others)
        wanted = dtype if dtype is not None else torch_dtype
        return cls(
            SpatialVLA.from_pretrained(
                path_or_id,
                dtype="float32" if wanted in (None, "auto") else wanted,
                device="cpu" if device_map is None else device_map,
                revision=revision,
                token=token,
            )
        )

    def save_pretrained(self, path: str | Path, **options: Any) -> None:
        """As `SpatialVLA.save_pretrained`."""
        self.model.save_pretrained(path, **options)

    @property
    def config(self) -> Any:
        """The network's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.model.dtype

    def predict_action(self, model_inputs: BatchFeature) -> Int[torch.Tensor, "B ids"]:
        """The vocabulary ids of a chunk of actions, 3 a step, for `decode_actions`.

        model_inputs: what the processor gives, on any device. Unlike in the published code no other token can come
        out.
        """
        return self.model.generate(self._batch(model_inputs))

    def generate(
        self,
        *,
        max_new_tokens: int = 256,
        do_sample: bool = False,
        temperature: float = 1.0,
        **model_inputs: torch.Tensor,
    ) -> Int[torch.Tensor, "B T"]:
        """The prompt's ids and, behind them, any tokens up to <eos>, as the published code generates them."""
        batch = self._batch(model_inputs)
        generated = self.model.generate(
            batch,
            constrained=False,
            max_new_tokens=max_new_tokens,
            temperature=temperature if do_sample else 0.0,
        )
        return torch.cat([batch.input_ids, generated], dim=1)

    def _batch(self, inputs: BatchFeature | dict[str, torch.Tensor]) -> Batch:
        ids, intrinsics = inputs["input_ids"], torch.as_tensor(inputs["intrinsic"]).float()
        rows = len(ids)
        return Batch(
            input_ids=ids,
            attention_mask=inputs["attention_mask"].bool(),
            pixel_values=inputs["pixel_values"].float(),
            intrinsics=intrinsics.expand(rows, 3, 3) if intrinsics.dim() == 2 else intrinsics,
        ).to(self.device)


class SpatialVLAProcessor:
    """A `Processor`, called as the published code's class is.

    processor: what everything else of this package takes.
    """

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        **others: object,
    ) -> SpatialVLAProcessor:
        """As `Processor.from_pretrained`. Raises InputError for arguments that would change what is loaded."""
        _check_known(others)
        return cls(Processor.from_pretrained(path_or_id, revision=revision, token=token))

    def save_pretrained(self, path: str | Path) -> None:
        """As `Processor.save_pretrained`."""
        self.processor.save_pretrained(path)

    @property
    def statistics(self) -> dict[str, Any]:
        """Of each dataset's actions, as processor_config.json has them."""
        return {key: statistics.to_json() for key, statistics in self.processor.statistics.items()}

    @property
    def action_chunk_size(self) -> int:
        """Steps of a chunk."""
        return self.processor.action_chunk_size

    def __call__(
        self,
        images: Image.Image | np.ndarray | Sequence[Image.Image | np.ndarray],
        text: str | Sequence[str],
        unnorm_key: str | None = None,
        *,
        return_tensors: Literal["pt"] = "pt",
        do_normalize: bool = False,
    ) -> BatchFeature:
        """input_ids, attention_mask, pixel_values in [0, 1] and the intrinsics of the resized images.

        text: used as it is; models are trained on the lower-cased instruction alone. unnorm_key: the dataset whose
        camera took the images; the default one unless given, or where the dataset has none of its own.
        Raises InputError for what cannot be used.
        """
        if return_tensors != "pt" or do_normalize:
            raise InputError(
                'SpatialVLA takes return_tensors="pt" and do_normalize=False alone; leave the two out.'
            )
        pictures = [images] if isinstance(images, Image.Image | np.ndarray) else list(images)
        prompts = [text] if isinstance(text, str) else list(text)
        known = unnorm_key in self.processor.statistics or unnorm_key in self.processor.cameras
        batch = self.processor(pictures, prompts, unnorm_key if known else None)
        return BatchFeature(
            {
                "input_ids": batch.input_ids,
                "attention_mask": batch.attention_mask.long(),
                "pixel_values": batch.pixel_values,
                "intrinsic": batch.intrinsics,
            }
        )

    def decode_actions(
        self, generation_outputs: Int[torch.Tensor, "B ids"], unnorm_key: str | None = None
    ) -> dict[str, Float[np.ndarray, "T 7"] | Int[np.ndarray, "T 3"]]:
        """`actions`, in the units of the dataset `unnorm_key`, and the `action_ids` that they come from.

        generation_outputs: of `predict_action`, of one image; more are `processor.decode`'s.
        Raises InputError where the dataset is not named and there are several, and for ids that are no actions.
        """
        if len(generation_outputs) != 1:
            raise InputError(
                f"decode_actions takes the outputs of one image, got {len(generation_outputs)}; call it for each "
                "(outputs[i : i + 1]), or processor.decode for all."
            )
        key = self.processor.dataset_for(unnorm_key or None)
        ids = generation_outputs[:, : 3 * self.processor.action_chunk_size]
        return {
            "actions": self.processor.decode(ids, key)[0],
            "action_ids": ids[0].cpu().numpy().reshape(-1, 3),
        }


def _check_known(others: dict[str, object]) -> None:
    """Raises InputError for an argument of transformers' that asks for something else than is done here."""
    for name, value in others.items():
        if name not in _OF_THE_HUB | _WITHOUT_EFFECT or (
            name in _OF_THE_HUB and value and name != "_from_auto"
        ):
            raise InputError(f"from_pretrained does not know {name}={value!r} here; leave it out.")


AutoConfig.register("spatialvla", SpatialVLAConfig, exist_ok=True)
for auto in (AutoModel, AutoModelForImageTextToText):
    auto.register(SpatialVLAConfig, SpatialVLAForConditionalGeneration, exist_ok=True)
AutoProcessor.register(SpatialVLAConfig, SpatialVLAProcessor, exist_ok=True)
