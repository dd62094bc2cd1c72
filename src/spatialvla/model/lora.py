"""LoRA through peft: adapters added to a model, saved alone, loaded onto their base, and merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from spatialvla.actions.grids import ActionGrid
from spatialvla.common.json_files import read_json, write_json
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.checkpoint import (
    ADAPTER,
    SHIPPED,
    mirror_action_embeddings,
    published_name,
    resolve_folder,
)
from spatialvla.model.regrid import regrid
from spatialvla.model.weights import Filling, read_file, write_file

if TYPE_CHECKING:
    from spatialvla.model.spatialvla import SpatialVLA

T = TypeVar("T", bound=torch.Tensor)

TENSORS = "adapter_model.safetensors"
TARGETS = (
    r"(language_model\.model|vision_tower)\.(.*\.)?((q|k|v|o|out|gate|up|down)_proj|fc1|fc2)"
    r"|multi_modal_projector\.linear|position_embedding_3d\.position_embedding_head\.(0|3)"
)
"""All linear layers of decoder, SigLIP, projector and Ego3D; not the head, as published, nor ZoeDepth."""

_PREFIX = "base_model.model."
_NAME = "default"


@dataclass(frozen=True)
class LoraOptions:
    """Defaults as published (scripts/spatialvla_4b_finetune/finetune_lora.sh).

    alpha: the adapters' product is scaled by alpha / rank. dropout: of the adapters' inputs.
    spatial_embeddings: whether `spatial_embed_tokens` is trained and saved whole beside the adapters. Published
    code does so exactly where the embeddings were adapted to a new grid (train/spatialvla_finetune.py,
    `adpt_feature`).
    """

    rank: int = 32
    alpha: float = 32
    dropout: float = 0.0
    spatial_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise InputError(
                f"LoRA needs rank >= 1, alpha > 0 and dropout in [0, 1), got {self.rank}, {self.alpha} and "
                f"{self.dropout}."
            )


def add_lora(model: SpatialVLA, base: str | Path, options: LoraOptions = LoraOptions()) -> None:
    """Adds adapters to the model, which do nothing until trained, and freezes all else but as `options` say.

    base: the folder, shipped name or Hub id that the model was loaded from; the saved adapter names it.
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=TARGETS,
        init_lora_weights="gaussian",
        modules_to_save=["spatial_embed_tokens"] if options.spatial_embeddings else None,
        base_model_name_or_path=_durable(base),
    )
    _inject(model, config)


def has_lora(model: SpatialVLA) -> bool:
    """Whether the model has adapters that are not merged."""
    return hasattr(model, "peft_config")


def adapter_parameters(model: SpatialVLA) -> dict[str, torch.nn.Parameter]:
    """What an adapter is made of, by the names in peft's files. Raises InputError without an adapter."""
    if not has_lora(model):
        raise InputError("The model has no LoRA adapter; add one first.")
    saved = _config(model).modules_to_save or ()
    return adapter_tensors(dict(model.named_parameters()), saved)


def adapter_tensors(tensors: Mapping[str, T], saved: Sequence[str]) -> dict[str, T]:
    """Those of a model's tensors that are an adapter's, by the names in peft's files. saved: modules saved whole."""
    found = {}
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0]
        if "lora_" in name or any(f".{module}".endswith(f".{part}") for part in saved):
            found[_PREFIX + published_name(name.replace(f".{_NAME}", ""))] = tensor
    return found


def save_adapter(model: SpatialVLA, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as peft does, with published names.

    The processor belongs beside them: its grid tells whether the base's was adapted. dtype: None keeps it.
    """
    tensors = {key: p.detach().cpu().to(dtype or p.dtype) for key, p in adapter_parameters(model).items()}
    write_file(tensors, folder / TENSORS)
    save_adapter_config(model, folder)


def save_adapter_config(model: SpatialVLA, folder: Path) -> None:
    """Writes adapter_config.json alone."""
    with TemporaryDirectory() as temporary:
        _config(model).save_pretrained(temporary)
        write_json(folder / ADAPTER, read_json(Path(temporary) / ADAPTER))


def load_adapted(kind: type[SpatialVLA], folder: Path, dtype: torch.dtype) -> SpatialVLA:
    """The base that an adapter's folder names, with the adapter merged into it.

    Where the processor beside the adapter has another grid than the base's, the base is first carried over to it.
    Raises CheckpointError where the base is not to be found or does not fit, InputError without peft.
    """
    model = load_unmerged(kind, folder, dtype)
    merge_lora(model)
    return model


def load_unmerged(
    kind: type[SpatialVLA],
    folder: Path,
    dtype: torch.dtype,
    trained: Mapping[str, torch.Tensor] | None = None,
) -> SpatialVLA:
    """Like `load_adapted`, with the adapter still apart and trainable.

    trained: tensors of a model with adapters by its own names, to take instead of those in the folder.
    """
    peft = _peft()
    raw = read_json(folder / ADAPTER)
    if raw.get("peft_type") != "LORA" or not raw.get("base_model_name_or_path"):
        raise CheckpointError(f"{folder / ADAPTER} describes no LoRA adapter that names its base.")
    base = resolve_folder(raw["base_model_name_or_path"])
    if base.resolve() == folder.resolve():
        raise CheckpointError(f"{folder / ADAPTER} names its own folder as the base.")
    model = kind.from_pretrained(base, dtype=dtype)
    if (folder / "processor_config.json").exists():
        old, new = (ActionGrid.from_json(read_json(f / "processor_config.json")) for f in (base, folder))
        if old != new:
            regrid(model, old, new)
    config = peft.LoraConfig.from_pretrained(str(folder))
    if trained is None:
        tensors = dict(read_file(folder / TENSORS))
    else:
        tensors = adapter_tensors(trained, config.modules_to_save or ())
    config.target_modules = _targets(model, tensors)
    config.inference_mode = False
    _inject(model, config)
    filling = Filling(adapter_parameters(model))
    for key, tensor in tensors.items():
        filling.take(folder / TENSORS, key, tensor)
    filling.finish(folder)
    mirror_action_embeddings(model)
    return model


@torch.no_grad()
def merge_lora(model: SpatialVLA) -> None:
    """Adds the adapters into the weights they adapt; the model is then an ordinary one."""
    adapter_parameters(model)
    layers = _peft().tuners.lora.LoraLayer
    for name, module in list(model.named_modules()):
        if isinstance(module, layers):
            module.merge(safe_merge=True)
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    mirror_action_embeddings(model)
    model.requires_grad_(True)
    if model.config.use_vision_zoe:
        model.vision_zoe_model.requires_grad_(False)


def _inject(model: SpatialVLA, config: Any) -> None:
    if has_lora(model):
        raise InputError("The model has a LoRA adapter already; merge it first.")
    # peft wraps saved modules in copies; training the module itself gives the same file with less memory.
    saved, config.modules_to_save = config.modules_to_save, None
    _peft().inject_adapter_in_model(config, model, adapter_name=_NAME)
    config.modules_to_save = saved
    for parameter in adapter_parameters(model).values():
        parameter.requires_grad_(True)


def _config(model: SpatialVLA) -> Any:
    return getattr(model, "peft_config")[_NAME]  # noqa: B009  (peft's, unknown to the type checker)


def _targets(model: SpatialVLA, tensors: dict[str, torch.Tensor]) -> list[str]:
    """The model's own names of the modules that have adapters in a file."""
    adapted = {key.removeprefix(_PREFIX).partition(".lora_")[0] for key in tensors if ".lora_" in key}
    return [
        name
        for name, module in model.named_modules()
        if published_name(f"{name}.weight").removesuffix(".weight") in adapted
    ]


def _durable(base: str | Path) -> str:
    """The name of a base that holds from any working directory."""
    folder = Path(base).expanduser()
    return str(folder.resolve()) if folder.is_dir() and not (SHIPPED / str(base)).is_dir() else str(base)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise InputError("LoRA needs peft; install it with `pip install 'spatialvla[train]'`.") from None
    return peft
