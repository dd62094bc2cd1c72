"""What a checkpoint's folder holds of its processor: read, checked, and written in the published layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_args

from tokenizers import Tokenizer

from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.units import ActionUnits
from spatialvla.common.files import replacing
from spatialvla.common.json_files import read_json, write_json
from spatialvla.common.manifest import recording
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera
from spatialvla.model.config import PUBLISHED_CAMERAS, check_camera_names
from spatialvla.model.folders import resolve_folder
from spatialvla.model.hub import upload_saved
from spatialvla.tokenizer import action_token, read_tokenizer
from spatialvla.types import Readout

RESERVED = ("<image>", "<bos>", "<eos>", "<pad>")
"""Tokens that no prompt may hold."""

_DEFAULT, _CAMERAS, _OTHERS = "default_dataset", "cameras", "other_intrinsic_config"
_STATE, _PROPRIO = "state_names", "proprio"
_READOUT = "action_readout"
_PICTURES = "preprocessor_config.json"
_LARGEST_IMAGE, _LONGEST_CHUNK = 4096, 10_000
PASSED_ON = ("tokenizer_config.json", "special_tokens_map.json", _PICTURES)
"""Files whose content is passed on unchanged."""


@dataclass(frozen=True)
class StoredProcessor:
    """What is stored of a processor.

    tokenizer: text <-> ids. grid: normalized actions <-> action tokens. statistics, cameras: by dataset key;
    cameras["default"] serves datasets without their own. units: of the actions of datasets that tell.
    readout: which action a step's probabilities stand for, where the user does not say.
    default_dataset: whose statistics scale the actions where none is named, the one that was trained last.
    image_size: side of the square image in pixels.
    camera_names: of the model's cameras, in order. other_cameras: as `cameras`, of each camera behind the first.
    state_names: what the numbers of the arm's state are; empty where the model takes none. state_statistics: by
    dataset key.
    files: the tokenizer's and image processor's settings in Hugging Face's layout, passed on unchanged.
    """

    tokenizer: Tokenizer
    grid: ActionGrid
    statistics: Mapping[str, ActionStatistics]
    cameras: Mapping[str, Camera]
    image_size: int
    image_token_num: int
    action_chunk_size: int
    units: Mapping[str, ActionUnits] = field(default_factory=dict)
    default_dataset: str | None = None
    readout: Readout = "likeliest"
    camera_names: tuple[str, ...] = PUBLISHED_CAMERAS
    other_cameras: Mapping[str, Mapping[str, Camera]] = field(default_factory=dict)
    state_names: tuple[str, ...] = ()
    state_statistics: Mapping[str, StateStatistics] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for token in (*RESERVED, action_token(0), action_token(self.grid.size - 1)):
            self._id(token)
        if self.tokenizer.token_to_id(action_token(self.grid.size)) is not None:
            raise CheckpointError(
                f"The tokenizer has more action tokens than the grid's {self.grid.size}; they do not belong together."
            )
        if self.readout not in get_args(Readout):
            raise CheckpointError(
                f"The processor's action_readout is {self.readout!r}, not {' or '.join(get_args(Readout))}; a newer "
                "version may know it."
            )
        if "default" not in self.cameras:
            raise CheckpointError("The processor needs default intrinsics (an entry 'default').")
        check_camera_names(self.camera_names)
        for key, statistics in self.state_statistics.items():
            if statistics.size != len(self.state_names):
                raise CheckpointError(
                    f"The statistics of the states of {key} have {statistics.size} numbers, and the processor names "
                    f"{len(self.state_names)}; they do not belong together."
                )
        if self.default_dataset is not None and self.default_dataset not in self.statistics:
            raise CheckpointError(
                f"The processor has no statistics of its default dataset {self.default_dataset}."
            )

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, *, revision: str | None = None, token: str | bool | None = None
    ) -> Self:
        """Loads the processor saved beside a model: a folder, a shipped model's name, or a Hub id.

        Raises CheckpointError if a file is missing or broken.
        """
        folder = resolve_folder(path_or_id, revision, token)
        raw = read_json(folder / "processor_config.json")
        files = {name: read_json(folder / name) for name in PASSED_ON if (folder / name).exists()}
        # transformers 5 keeps the image processor's settings inside the processor's.
        pictures = files.setdefault(_PICTURES, raw.get("image_processor", {}))
        if not pictures:
            raise CheckpointError(f"{folder} lacks {_PICTURES}; download it again.")
        tokenizer = read_tokenizer(folder)
        grid = ActionGrid.from_json(raw)
        try:
            size = pictures["size"]
            if size["height"] != size["width"]:
                raise CheckpointError(f"Images must be square, but {folder} asks for {size}.")
            for name, number, most in (
                ("image size", size["height"], _LARGEST_IMAGE),
                ("image_seq_length", pictures["image_seq_length"], _LARGEST_IMAGE**2),
                ("action_chunk_size", raw["action_chunk_size"], _LONGEST_CHUNK),
            ):
                if not 1 <= number <= most:
                    raise ValueError(f"{name} is {number}, not 1 to {most}")
            state_names = tuple(map(str, raw.get(_STATE, [])))
            return cls(
                tokenizer=tokenizer,
                grid=grid,
                statistics={k: ActionStatistics.from_json(v) for k, v in raw["statistics"].items()},
                cameras={k: Camera.from_json(v) for k, v in raw["intrinsic_config"].items()},
                image_size=int(size["height"]),
                image_token_num=int(pictures["image_seq_length"]),
                action_chunk_size=int(raw["action_chunk_size"]),
                units={k: ActionUnits.from_json(v) for k, v in raw.get("action_units", {}).items()},
                default_dataset=raw.get(_DEFAULT),
                readout=raw.get(_READOUT, "likeliest"),
                camera_names=tuple(raw.get(_CAMERAS, PUBLISHED_CAMERAS)),
                other_cameras={
                    name: {k: Camera.from_json(v) for k, v in of_datasets.items()}
                    for name, of_datasets in raw.get(_OTHERS, {}).items()
                },
                state_names=state_names,
                state_statistics={
                    key: StateStatistics.from_json(entry[_PROPRIO])
                    for key, entry in raw["statistics"].items()
                    if state_names and _PROPRIO in entry
                },
                extra=raw,
                files=files,
            )
        except CheckpointError:
            raise
        except KeyError as error:
            raise CheckpointError(f"The processor's configuration in {folder} lacks {error}.") from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(
                f"The processor's configuration in {folder} cannot be used ({error}); download it again."
            ) from None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | bool | None = None,
        revision: str | None = None,
        private: bool = False,
    ) -> str:
        """Uploads what `save_pretrained` writes to the Hub, as `upload_folder` says; gives the address."""
        return upload_saved(self.save_pretrained, repo_id, token=token, revision=revision, private=private)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes the processor in the published layout, each file at once or not at all."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        with recording(folder, [*self.files, "tokenizer.json", "processor_config.json"]):
            for name, content in self.files.items():
                write_json(folder / name, content)
            with replacing(folder / "tokenizer.json") as partial:
                self.tokenizer.save(str(partial), pretty=False)
            write_json(folder / "processor_config.json", self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The published processor_config.json: the grid, the statistics and the cameras.

        What did not change is written as it was read: order, integers, and all that nothing here reads.
        """
        parts: dict[str, Any] = {
            **self.grid.to_json(),
            "action_chunk_size": self.action_chunk_size,
            "intrinsic_config": {k: v.to_json() for k, v in self.cameras.items()},
            "statistics": {k: self._statistics_entry(k) for k in self.statistics},
            "processor_class": "SpatialVLAProcessor",
        }
        if self.units:
            parts["action_units"] = {k: v.to_json() for k, v in self.units.items()}
        if self.camera_names != PUBLISHED_CAMERAS:
            parts[_CAMERAS] = list(self.camera_names)
        if self.other_cameras:
            parts[_OTHERS] = {
                name: {k: v.to_json() for k, v in of_datasets.items()}
                for name, of_datasets in self.other_cameras.items()
            }
        if self.state_names:
            parts[_STATE] = list(self.state_names)
        if self.default_dataset is not None:
            parts[_DEFAULT] = self.default_dataset
        if self.readout != "likeliest":
            parts[_READOUT] = self.readout
        changing = (_DEFAULT, _CAMERAS, _OTHERS, _STATE, _READOUT)
        kept = {k: v for k, v in self.extra.items() if k not in changing or k in parts}
        return {**kept, **{k: v for k, v in parts.items() if kept.get(k) != v}}

    def _statistics_entry(self, key: str) -> dict[str, Any]:
        """Of one dataset. Those of states in another layout than the policy's are left out where it takes a state."""
        entry = self.statistics[key].to_json()
        if not self.state_names:
            return entry
        states = self.state_statistics.get(key)
        of_states = {} if states is None else {_PROPRIO: states.to_json()}
        return {name: value for name, value in entry.items() if name != _PROPRIO} | of_states

    def _id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(
                f"The tokenizer lacks {token}; it does not belong to a grid of {self.grid.size} tokens."
            )
        return found
