"""JSON files: objects read with errors that name the file, and written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spatialvla.common.files import replacing
from spatialvla.errors import CheckpointError, InputError

_ADVICE = "copy or download it again"


def read_json(
    path: Path,
    advice: str = _ADVICE,
    error: type[CheckpointError] | type[InputError] = CheckpointError,
) -> dict[str, Any]:
    """The object in a JSON file.

    advice: what to do where that is impossible, for the sentence of the `error` that is then raised.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path} does not exist; {advice}.") from None
    except OSError as reason:
        raise error(f"{path} cannot be read ({reason.strerror}); {advice}.") from None
    return parse_json(data, str(path), advice, error)


def parse_json(
    data: bytes,
    name: str,
    advice: str = _ADVICE,
    error: type[CheckpointError] | type[InputError] = CheckpointError,
) -> dict[str, Any]:
    """The object in the content of a JSON file, which is called `name` in the sentence of the `error`."""
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except ValueError as reason:
        raise error(f"{name} is not valid JSON ({reason}); {advice}.") from None
    if not isinstance(content, dict):
        raise error(f"{name} holds no JSON object; {advice}.")
    return content


def write_json(path: Path, content: object, indent: int = 2) -> None:
    """Writes JSON to a temporary file first, so that a reader never sees half of it."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
