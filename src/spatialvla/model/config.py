"""One configuration for the whole network, read from and written to the published `config.json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub.errors import StrictDataclassError
from transformers import SiglipVisionConfig, ZoeDepthConfig

from spatialvla.common.json_files import read_json
from spatialvla.common.schema import parse
from spatialvla.errors import CheckpointError
from spatialvla.geometry.workspace import PUBLISHED, Workspace
from spatialvla.model.quantization_entry import Quantization

Ego3DFrame = Literal["camera", "robot"]
"""Whose frame Ego3D places patches in."""

PUBLISHED_CAMERAS = ("image",)
"""The published model has one camera; this is what it is called where cameras have names."""

_GRID_SIZES = ("translation_token_num", "rotation_token_num", "gripper_token_num", "action_chunk_size")
_INPUTS = ("ego3d_frame", "workspace", "cameras", "state_size")
_WRITTEN_APART = ("text", "vision", "depth", "extra", "stored", "quantization", *_INPUTS)
_MOST_ENTRIES, _MOST_LAYERS, _LARGEST, _MOST_STATE = 100_000, 1000, 2**31, 1000
_AT_LEAST_1 = frozenset(
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "image_size",
        "patch_size",
        "translation_token_num",
        "rotation_token_num",
        "gripper_token_num",
        "action_chunk_size",
        "ego3d_patch_reso",
        "n_freqs",
    ]
)


@dataclass(frozen=True)
class Gemma2Config:
    """The decoder. Defaults are transformers' own, which published files leave out."""

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    query_pre_attn_scalar: float = 256
    sliding_window: int = 4096
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_position_embeddings: int = 8192


@dataclass(frozen=True)
class SpatialVLAConfig:
    """The whole network.

    text: the Gemma 2 decoder. vision: SigLIP's settings, depth: ZoeDepth's, both in transformers' own words.
    The vocabulary is [text … <image> …][action tokens]; the action tokens start at `action_token_begin_idx`:
    first the translation cells, then the rotation cells, then gripper closed and open.
    ego3d_frame, workspace: whose frame patches are placed in, and what their positions are encoded relative to. The
    defaults are the published model's, which are not written; so are those of the next two.
    cameras: what the cameras are called, in the order in which their images stand in front of the prompt.
    state_size: numbers of the arm's state, which becomes one token behind the images; 0 without.
    quantization: which weights are kept in 4 bits; None for none.
    stored: the file that it was read from, which is written back as it was where nothing changed.
    """

    text: Gemma2Config
    vision: Mapping[str, Any]
    depth: Mapping[str, Any]
    image_token_index: int
    action_token_begin_idx: int
    translation_token_num: int = 4096
    rotation_token_num: int = 4096
    gripper_token_num: int = 2
    action_chunk_size: int = 4
    ego3d_patch_reso: int = 2
    n_freqs: int = 8
    use_vision_zoe: bool = True
    ego3d_frame: Ego3DFrame = "camera"
    workspace: Workspace = PUBLISHED
    cameras: tuple[str, ...] = PUBLISHED_CAMERAS
    state_size: int = 0
    depth_padding: int = 31
    pad_token_id: int = 0
    eos_token_id: int = 1
    bos_token_id: int = 2
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    quantization: Quantization | None = None
    stored: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        end = self.action_token_begin_idx + self.spatial_token_num
        if end != self.text.vocab_size:
            raise CheckpointError(
                f"The action tokens should end the vocabulary of {self.text.vocab_size} entries, but "
                f"{self.spatial_token_num} of them from {self.action_token_begin_idx} end at {end}; "
                "the checkpoint's config.json and processor_config.json do not belong together."
            )
        if self.ego3d_frame not in get_args(Ego3DFrame):
            raise CheckpointError(
                f"ego3d_frame is {self.ego3d_frame!r} in the checkpoint's config.json; 'camera' and 'robot' can be "
                "used."
            )
        check_camera_names(self.cameras)
        if not 0 <= self.state_size <= _MOST_STATE:
            raise CheckpointError(f"state_size is {self.state_size}, not 0 to {_MOST_STATE} numbers.")

    @property
    def needs_extrinsics(self) -> bool:
        """Whether the network has to know where the camera stands."""
        return self.use_vision_zoe and self.ego3d_frame == "robot"

    @property
    def spatial_token_num(self) -> int:
        """Action tokens of all three kinds."""
        return self.translation_token_num + self.rotation_token_num + self.gripper_token_num

    @cached_property
    def siglip(self) -> SiglipVisionConfig:
        """`vision` as transformers' own configuration."""
        return SiglipVisionConfig(**self.vision)

    @cached_property
    def zoe(self) -> ZoeDepthConfig:
        """`depth` as transformers' own configuration."""
        return ZoeDepthConfig(**self.depth)

    @property
    def image_size(self) -> int:
        """Side of the square image in pixels."""
        size = self.siglip.image_size
        assert isinstance(size, int)
        return size

    @property
    def patch_size(self) -> int:
        """Side of an image patch in pixels."""
        size = self.siglip.patch_size
        assert isinstance(size, int)
        return size

    @property
    def image_token_num(self) -> int:
        """Tokens of an image: one a patch."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def grammar(self) -> tuple[slice, slice, slice]:
        """Vocabulary rows of the translation, rotation and gripper tokens, in the order they are spoken."""
        first = self.action_token_begin_idx
        second = first + self.translation_token_num
        third = second + self.rotation_token_num
        return slice(first, second), slice(second, third), slice(third, third + self.gripper_token_num)

    @property
    def id_ranges(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Half-open vocabulary id ranges of the translation, rotation and gripper tokens."""
        translation, rotation, gripper = ((rows.start, rows.stop) for rows in self.grammar)
        return translation, rotation, gripper

    @classmethod
    def from_folder(cls, folder: Path) -> SpatialVLAConfig:
        """Reads `config.json`; what it lacks of the grid's sizes comes from `processor_config.json`.

        Raises CheckpointError where a file is missing or does not describe a network.
        """
        path = folder / "config.json"
        raw = read_json(path)
        if raw.get("model_type") != "spatialvla":
            raise CheckpointError(
                f"{path} is not a SpatialVLA configuration (model_type is {raw.get('model_type')!r})."
            )
        stored = dict(raw)
        if "translation_token_num" not in raw:
            raw |= _grid_sizes(folder / "processor_config.json")
        with _usable(path):
            _check_sizes(raw)
            text, entry = raw.pop("text_config"), raw.pop("quantization_config", None)
            known = {f.name for f in fields(cls)}
            inputs = _parsed_inputs({name: raw.pop(name) for name in _INPUTS if name in raw})
            text_known = {f.name for f in fields(Gemma2Config)}
            config = cls(
                text=parse(Gemma2Config, {k: v for k, v in text.items() if k in text_known}, "text_config"),
                vision=raw.pop("vision_config"),
                depth=raw.pop("vision_zoe_config", {}),
                **inputs,
                quantization=None if entry is None else Quantization.from_json(entry),
                **{k: v for k, v in raw.items() if k in known},
                extra={k: v for k, v in raw.items() if k not in known},
                stored=stored,
            )
            # Transformers checks the towers' settings when it makes their configurations.
            _ = config.siglip, config.zoe if config.use_vision_zoe else None
        return config

    def to_json(self, beside_processor: bool = False) -> dict[str, Any]:
        """The published layout, with our own few fields beside it; as it was read where it has not changed.

        beside_processor: whether a processor_config.json will lie beside it, from which published files leave the
        reader to take the grid's sizes.
        """
        if self.stored is not None:
            sizes = {} if beside_processor else {name: getattr(self, name) for name in _GRID_SIZES}
            return {**self.stored, **{name: size for name, size in sizes.items() if name not in self.stored}}
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _WRITTEN_APART}
        defaults = {f.name: f.default for f in fields(self)}
        own |= {name: value for name, value in self.inputs.items() if getattr(self, name) != defaults[name]}
        text = {f.name: getattr(self.text, f.name) for f in fields(self.text)}
        return {
            "architectures": ["SpatialVLAForConditionalGeneration"],
            **self.extra,
            **own,
            "model_type": "spatialvla",
            "hidden_size": self.text.hidden_size,
            "projection_dim": self.text.hidden_size,
            "spatial_token_num": self.spatial_token_num,
            "use_spatial_token": True,
            "text_config": {
                **text,
                "model_type": "gemma2",
                "num_image_tokens": self.image_token_num,
                "tie_word_embeddings": False,
            },
            "vision_config": dict(self.vision),
            "vision_zoe_config": dict(self.depth),
            **({} if self.quantization is None else {"quantization_config": self.quantization.to_json()}),
        }

    @property
    def inputs(self) -> dict[str, Any]:
        """What published networks have no choice of: cameras, state, frame and workspace, as in config.json."""
        return {name: getattr(self, name) for name in _INPUTS} | {
            "cameras": list(self.cameras),
            "workspace": asdict(self.workspace),
        }

    def with_inputs(self, inputs: Mapping[str, Any]) -> SpatialVLAConfig:
        """A copy with other inputs, as `inputs` gives them; those left out stay.

        Raises ValueError or CheckpointError where they are none.
        """
        return self.replace(**_parsed_inputs(inputs))

    def replace(self, **changes: Any) -> SpatialVLAConfig:
        """A copy with some fields changed."""
        return replace(self, **{"stored": None, **changes})


def check_camera_names(names: Sequence[str]) -> None:
    """Raises CheckpointError unless these are names of cameras, each once, the first camera's first."""
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise CheckpointError(f"cameras are {list(names)}; give each camera a name, the first one's first.")
    if len(set(names)) < len(names):
        raise CheckpointError(f"cameras names one twice: {', '.join(names)}.")


def _parsed_inputs(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Those fields of the configuration that `raw` has. Raises ValueError for other entries than are written."""
    found = dict(raw)
    if "workspace" in raw:
        found["workspace"] = parse(Workspace, raw["workspace"], "workspace")
    if "cameras" in raw:
        if not isinstance(raw["cameras"], list):
            raise ValueError("cameras is no list of names")
        found["cameras"] = tuple(raw["cameras"])
    return found


def _grid_sizes(path: Path) -> dict[str, int]:
    processor = read_json(path)
    with _usable(path):
        bins = processor["action_config"]["num_bins"]
        translation, rotation = bins["translation"], bins["rotation"]
        return {
            "translation_token_num": translation["theta_bins"]
            * translation["phi_bins"]
            * translation["r_bins"],
            "rotation_token_num": rotation["roll_bins"] * rotation["pitch_bins"] * rotation["yaw_bins"],
            "gripper_token_num": bins["gripper"],
            "action_chunk_size": processor["action_chunk_size"],
        }


def _check_sizes(value: object, name: str = "") -> None:
    """Raises ValueError for numbers of layers and sizes that no network has, wherever they stand."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_sizes(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        if len(value) > _MOST_ENTRIES:
            raise ValueError(f"{name} has {len(value)} entries")
        for inner in value:
            _check_sizes(inner, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        most = _MOST_LAYERS if name.endswith("layers") else _LARGEST
        if abs(value) > most:
            raise ValueError(f"{name} is {value}")
        if value < 1 and name.rpartition(".")[2] in _AT_LEAST_1:
            raise ValueError(f"{name} is {value}")


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Turns what Python says of a file that lacks entries, or holds others, into a CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}; download it again.") from None
    except (TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path} cannot be used ({reason}); download it again.") from None
