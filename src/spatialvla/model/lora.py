"""LoRA through peft: adapters added to a network, saved alone, restored onto their base, and merged."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from spatialvla.common.extras import needs_extra
from spatialvla.common.files import sweep
from spatialvla.common.json_files import parse_value, read_json, write_json
from spatialvla.common.manifest import recording
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.base_digest import known_digest, write_digest
from spatialvla.model.folders import ADAPTER, lasting_name
from spatialvla.model.gemma2 import Head
from spatialvla.model.lora_options import PUBLISHED, LoraOptions, LoraTarget
from spatialvla.model.network import Network
from spatialvla.model.published import mirror_action_embeddings, published_name
from spatialvla.model.quantization.linear import FourBitLinear
from spatialvla.model.quantization.network import widen
from spatialvla.model.weights import Filling, read_file, read_header, write_file

T = TypeVar("T", bound=torch.Tensor)

TENSORS = "adapter_model.safetensors"
_LINEAR = (
    r"(language_model\.model|vision_tower)\.(.*\.)?((q|k|v|o|out|gate|up|down)_proj|fc1|fc2)"
    r"|multi_modal_projector\.linear|position_embedding_3d\.position_embedding_head\.(0|3)"
)
_EMBEDDINGS = r"|spatial_embed_tokens"
_HEAD = r"|language_model\.lm_head"
TARGETS: Mapping[LoraTarget, str] = {
    "linear": _LINEAR,
    "linear+emb": _LINEAR + _EMBEDDINGS,
    "linear+emb+h": _LINEAR + _EMBEDDINGS + _HEAD,
}
"""The names of what is adapted, as published: linear layers of decoder, SigLIP, projector and Ego3D, and more."""

REGRIDDED = "spatialvla_regridded"
"""The mark of an adapter in its adapter_config.json, see `is_regridded`."""
INPUTS = "spatialvla_inputs"
"""The entry of an adapter whose network has other cameras, another state, frame or workspace than its base."""

_TRAINED_WITH = "spatialvla_adapter_config"
_EDITABLE = ("base_model_name_or_path", "inference_mode")
_PREFIX = "base_model.model."
_BASE_LAYER = ".base_layer.weight"
_NAME = "default"
_STATE_PROJECTOR = "state_projector"
_DEPTH_ESTIMATOR = "vision_zoe_model"


def add_lora(
    network: Network, base: str | Path, options: LoraOptions = PUBLISHED, other_depth: bool = False
) -> None:
    """Adds adapters, which do nothing until trained, and freezes the rest of the network as `options` say.

    base: the folder, shipped name or Hub id that the model was loaded from; the saved adapter names it. What reads
    the arm's state is small, and often new: where there is one, it is trained and saved whole.
    other_depth: whether the depth estimator is another than the base's, so that it is saved, too, frozen as it is.
    Raises InputError where a module to save is none of the network's, or not to be trained whole.
    """
    peft = load_peft()
    check_saved(network, options)
    of_state = (_STATE_PROJECTOR,) if network.config.state_size else ()
    of_depth = (_DEPTH_ESTIMATOR,) if other_depth else ()
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=TARGETS[options.target],
        init_lora_weights="gaussian",
        modules_to_save=list(dict.fromkeys([*options.modules_to_save, *of_state, *of_depth])) or None,
        base_model_name_or_path=lasting_name(base),
    )
    _inject(network, config)
    network.base_digest = known_digest(base)


def has_lora(network: Network) -> bool:
    """Whether the network has adapters that are not merged."""
    return hasattr(network, "peft_config")


def adapter_parameters(network: Network) -> dict[str, torch.nn.Parameter]:
    """What an adapter is made of, by the names in peft's files. Raises InputError without an adapter."""
    if not has_lora(network):
        raise InputError("The model has no LoRA adapter; add one first.")
    saved = _config(network).modules_to_save or ()
    return adapter_tensors(dict(network.named_parameters()), saved)


def adapter_tensors(tensors: Mapping[str, T], saved: Sequence[str]) -> dict[str, T]:
    """A network's tensors that are an adapter's, by the names in peft's files.

    saved: ends of the names of modules that are saved whole.
    """
    return {
        _PREFIX + published_name(name.replace(f".{_NAME}", "")): tensor
        for name, tensor in tensors.items()
        if _is_adapters(name, saved)
    }


def base_names(network: Network) -> frozenset[str]:
    """The names of all tensors around an adapter, which its training leaves as they are; none without an adapter."""
    if not has_lora(network):
        return frozenset()
    saved = _config(network).modules_to_save or ()
    return frozenset(name for name in network.state_dict() if not _is_adapters(name, saved))


def save_adapter(network: Network, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as peft does, with published names, and `BASE_DIGEST`.

    The processor belongs beside them: its grid tells whether the base's was adapted. dtype: None keeps it.
    """
    tensors = {key: p.detach().cpu().to(dtype or p.dtype) for key, p in adapter_parameters(network).items()}
    content = _config_json(network)
    # What the tensors were trained with is told beside them, too: adapter_config.json may be edited, as when the
    # base has moved, and so no checksum covers it.
    told = {key: value for key, value in content.items() if key not in _EDITABLE}
    sweep(folder, "*.safetensors")
    with recording(folder, [TENSORS]):
        write_file(tensors, folder / TENSORS, {_TRAINED_WITH: json.dumps(told)})
    write_json(folder / ADAPTER, content)
    write_digest(folder, network.base_digest)


def save_adapter_config(network: Network, folder: Path) -> None:
    """`save_adapter` without the tensors; it says whether the base is to be carried over to another grid."""
    write_json(folder / ADAPTER, _config_json(network))
    write_digest(folder, network.base_digest)


def _config_json(network: Network) -> dict[str, Any]:
    with TemporaryDirectory() as temporary:
        _config(network).save_pretrained(temporary)
        content = read_json(Path(temporary) / ADAPTER)
    marks = {REGRIDDED: True} if network.regridded else {}
    return content | marks | ({INPUTS: network.config.inputs} if network.grown else {})


def stored_lora(folder: Path) -> Any:
    """The `peft.LoraConfig` of an adapter's folder.

    Raises CheckpointError where the folder holds another kind of adapter, InputError without peft.
    """
    peft = load_peft()
    raw = read_json(folder / ADAPTER)
    if raw.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{folder / ADAPTER} describes no LoRA adapter (peft_type is {raw.get('peft_type')!r})."
        )
    _check_trained_with(folder, raw)
    # Keys of a later peft are left out, with a warning.
    return peft.LoraConfig.from_peft_type(
        **{key: value for key, value in raw.items() if key not in (REGRIDDED, INPUTS)}
    )


def _check_trained_with(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises CheckpointError where adapter_config.json says other things than the tensors were trained with."""
    if not (folder / TENSORS).exists():
        return
    for key, value in parse_value(read_header(folder / TENSORS).get(_TRAINED_WITH, "{}")).items():
        if config.get(key) != value:
            raise CheckpointError(
                f"{folder / ADAPTER} says {key}: {config.get(key)!r}, but {TENSORS} was trained with {value!r}; copy "
                "the folder again."
            )


def is_regridded(folder: Path) -> bool:
    """Whether an adapter was trained on a base that `regrid` had carried over to the grid beside it.

    The published code's adapters never were: where it adapts the grid (`--adapt_emb`), the processor's bin
    edges change alone, and the embeddings are in the adapter's own tensors if they change at all.
    """
    return read_json(folder / ADAPTER).get(REGRIDDED) is True


def restore_lora(
    network: Network, config: Any, folder: Path, trained: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Adds a stored adapter to its base, still apart and trainable.

    config: of `stored_lora`. folder: where the adapter's tensors are. trained: tensors of a network with
    adapters by its own names, to take instead of those in the folder.
    Raises CheckpointError where a tensor is missing, extra or misshapen.
    """
    if trained is None:
        tensors = dict(read_file(folder / TENSORS))
        _take_out_copies(network, tensors, folder / TENSORS)
    else:
        tensors = adapter_tensors(trained, config.modules_to_save or ())
    config.target_modules = _targets(network, tensors)
    config.inference_mode = False
    _inject(network, config)
    filling = Filling(adapter_parameters(network))
    for key, tensor in tensors.items():
        filling.take(folder / TENSORS, key, tensor)
    filling.finish(folder)
    mirror_action_embeddings(network)


@torch.no_grad()
def merge_lora(network: Network) -> None:
    """Adds the adapters into the weights they adapt; the network is then an ordinary one.

    Weights in 4 bits are widened first, as the sum of both is none of 4 bits.
    """
    adapter_parameters(network)
    if network.config.quantization is not None:
        widen(network)
    layers = load_peft().tuners.lora.LoraLayer
    for name, module in list(network.named_modules()):
        if isinstance(module, layers):
            module.merge(safe_merge=True)
            network.set_submodule(name, module.get_base_layer())
    del network.peft_config
    mirror_action_embeddings(network)
    network.requires_grad_(True)
    _freeze_depth(network)


def _freeze_depth(network: Network) -> None:
    if network.config.use_vision_zoe:
        network.vision_zoe_model.requires_grad_(False)


def _is_adapters(name: str, saved: Sequence[str]) -> bool:
    return "lora_" in name or _belongs(name, saved)


def _belongs(name: str, ends: Sequence[str]) -> bool:
    """Whether a tensor's module, or one around that, has a name that ends in one of `ends`, as peft compares."""
    parts = name.split(".")[:-1]
    modules = [".".join(parts[: count + 1]) for count in range(len(parts))]
    return any(module.endswith(end) for module in modules for end in ends)


def check_saved(network: Network, options: LoraOptions) -> None:
    """Raises InputError where a module to save is none of the network's, or not to be trained whole."""
    names = [name for name, _ in network.named_parameters()]
    adapted = re.compile(TARGETS[options.target])
    for end in options.modules_to_save:
        held = [name for name in names if _belongs(name, [end])]
        if not held:
            known = {part for name in names for part in name.split(".")[:-1]}
            near = get_close_matches(end, known, n=3, cutoff=0.4) or ["spatial_embed_tokens", "lm_head"]
            raise InputError(
                f"No module's name ends in {end!r}, which modules_to_save names; the closest are "
                f"{', '.join(near)}."
            )
        if any(name.startswith(f"{_DEPTH_ESTIMATOR}.") for name in held):
            raise InputError(f"modules_to_save names {end!r} of ZoeDepth, which stays frozen; leave it out.")
        if any(adapted.fullmatch(name.rpartition(".")[0]) for name in held):
            raise InputError(
                f"modules_to_save names {end!r}, which LoRA adapts already (target {options.target}); leave "
                "it out of one of the two."
            )


def _inject(network: Network, config: Any) -> None:
    if has_lora(network):
        raise InputError("The model has a LoRA adapter already; merge it first.")
    # peft wraps saved modules in copies; training the module itself gives the same file with less memory.
    saved, config.modules_to_save = config.modules_to_save, None
    config._register_custom_module({Head: _adapted_head(), FourBitLinear: load_peft().tuners.lora.Linear})
    load_peft().inject_adapter_in_model(config, network, adapter_name=_NAME)
    config.modules_to_save = saved
    for parameter in adapter_parameters(network).values():
        parameter.requires_grad_(True)
    _freeze_depth(network)


@cache
def _adapted_head() -> Any:
    """The class of an adapted head, which gives the logits of some rows of the vocabulary as `Head` does."""

    class AdaptedHead(load_peft().tuners.lora.Linear):  # type: ignore[misc]  # peft is optional, and has no types
        def forward(self, input: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
            """(…, D) -> (…, V), or (…, rows)."""
            logits: torch.Tensor = super().forward(input)
            return logits[..., rows]

    return AdaptedHead


def _take_out_copies(network: Network, tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Removes the base's own weights from an adapter's tensors; peft saves those of an adapted head.

    Raises CheckpointError where they are not this base's.
    """
    weights = {published_name(name): tensor for name, tensor in network.named_parameters()}
    for key in [key for key in tensors if key.endswith(_BASE_LAYER)]:
        copy = tensors.pop(key)
        name = key.removeprefix(_PREFIX).removesuffix(_BASE_LAYER) + ".weight"
        weight = weights.get(name)
        # Equal as far as both the file and the network can tell.
        if weight is None or not torch.equal(copy.to(weight.dtype).to(copy.dtype), weight.to(copy.dtype)):
            raise CheckpointError(
                f"{file} belongs to another base, whose {name} differs; name the right one with base=, on "
                "the command line --base."
            )


def _config(network: Network) -> Any:
    return getattr(network, "peft_config")[_NAME]  # noqa: B009  (peft's, unknown to the type checker)


def _targets(network: Network, tensors: dict[str, torch.Tensor]) -> list[str]:
    """The network's own names of the modules that have adapters in a file."""
    adapted = {key.removeprefix(_PREFIX).partition(".lora_")[0] for key in tensors if ".lora_" in key}
    return [
        name
        for name, module in network.named_modules()
        if published_name(f"{name}.weight").removesuffix(".weight") in adapted
    ]


def load_peft() -> Any:
    """The module peft, which writes adapters as all others read them. Raises InputError without it."""
    with needs_extra("train", "LoRA"):
        import peft
    return peft
