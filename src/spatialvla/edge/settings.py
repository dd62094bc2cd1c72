"""edge.json: what a folder of exported graphs is made of, and how they are fed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from spatialvla.common.json_files import read_json, write_json
from spatialvla.common.schema import parse
from spatialvla.errors import CheckpointError

FILE = "edge.json"
SCHEMA = "spatialvla.edge/1"
PARTS = ("depth", "prefill", "step")
Kind = Literal["onnx", "torch-export"]
ENDINGS: dict[Kind, str] = {"onnx": ".onnx", "torch-export": ".pt2"}


@dataclass(frozen=True)
class Settings:
    """The shapes, and what the processor's files beside it do not say.

    dataset: whose statistics scale the actions. template: of the prompt. prompt_tokens: slots behind the images, for
    `<bos>`, the words and a line break; they are filled from the right. image_tokens: slots of one picture.
    image_id, pad_id, bos_id, first_action: vocabulary ids. cameras: one picture each, all of them in every call.
    K: (V, 3, 3) of pictures of the model's size, where an observation brings none; () of a camera that has to.
    extrinsics, state: whether prefill takes them. versions: of what exported.
    """

    kind: Kind
    dataset: str
    template: str
    image_size: int
    image_tokens: int
    prompt_tokens: int
    chunk_size: int
    image_id: int
    pad_id: int
    bos_id: int
    first_action: int
    cameras: tuple[str, ...]
    K: tuple[tuple[tuple[float, ...], ...], ...]
    extrinsics: bool
    state: bool
    versions: dict[str, str]

    @property
    def prompt(self) -> int:
        """P: slots of the pictures, the state and the words."""
        return len(self.cameras) * self.image_tokens + self.state + self.prompt_tokens

    @property
    def ids(self) -> int:
        """Of a chunk."""
        return 3 * self.chunk_size

    @property
    def slots(self) -> int:
        """S: of keys and values. The last id of a chunk is never fed back, so it needs none."""
        return self.prompt + self.ids - 1

    def file(self, part: str) -> str:
        """The file's name of `depth`, `prefill` or `step`."""
        return part + ENDINGS[self.kind]

    def save(self, folder: Path) -> None:
        """Writes the file."""
        write_json(folder / FILE, {"schema": SCHEMA, **asdict(self)}, indent=1)

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Raises CheckpointError where the folder is none of an export for the edge."""
        raw: dict[str, Any] = read_json(folder / FILE)
        if raw.pop("schema", None) != SCHEMA:
            raise CheckpointError(f"{folder / FILE} is not of the schema {SCHEMA}; export again.")
        try:
            return parse(cls, raw)
        except ValueError as error:
            raise CheckpointError(f"{folder / FILE} cannot be used ({error}); export again.") from None
