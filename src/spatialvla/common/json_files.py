"""JSON files: objects read with errors that name the file, and written whole or not at all, with a checksum."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import google_crc32c

from spatialvla.common.files import replacing
from spatialvla.errors import CheckpointError, InputError

CHECKSUM = "content_crc32c"
"""The entry that `write_json` adds to documents that only this package reads; `parse_json` checks it."""

_ADVICE = "copy or download it again"
_MOST_BYTES = 512 * 1024**2
_MOST_DIGITS = 40
_DEEPEST = 64


def read_json(
    path: Path,
    advice: str = _ADVICE,
    error: type[CheckpointError] | type[InputError] = CheckpointError,
) -> dict[str, Any]:
    """The object in a JSON file, without its checksum.

    advice: what to do where that is impossible, for the sentence of the `error` that is then raised.
    """
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise error(f"{path} has {size / 1e6:.0f} MB, which no file of its kind has; {advice}.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise error(f"{path} does not exist; check the folder's name, or {advice}.") from None
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
        content = parse_value(data)
    except ValueError as reason:
        raise error(f"{name} is not valid JSON ({reason}); {advice}.") from None
    if not isinstance(content, dict):
        raise error(f"{name} holds no JSON object; {advice}.")
    checksum = content.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(content):
        raise error(
            f"{name} has other contents than were written; {advice}, or remove its entry {CHECKSUM} if it was "
            "edited on purpose."
        )
    return content


def parse_value(data: bytes | str) -> Any:
    """What a JSON text holds.

    Raises ValueError for what is no JSON, for objects with two entries of one name, of which nobody knows which
    counts, and for values nested more than 64 deep and integers of more than 40 digits, which no file of ours has
    and which would break what works on them.
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    try:
        content = json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    layer = [content]
    for _ in range(_DEEPEST):
        layer = [inner for value in layer if isinstance(value, dict | list) for inner in _inside(value)]
        if not layer:
            return content
    raise ValueError("it is nested too deeply")


def write_json(path: Path, content: object, indent: int = 2, checksum: bool = False) -> None:
    """Writes JSON to a temporary file first, so that a reader never sees half of it.

    checksum: adds one of an object's content, by which `read_json` sees damage; for files that no other program
    reads.
    """
    with replacing(path) as partial:
        partial.write_bytes(to_json(content, indent, checksum))


def to_json(content: object, indent: int = 2, checksum: bool = False) -> bytes:
    """The bytes that `write_json` writes."""
    if checksum:
        content = json.loads(json.dumps(content))
        assert isinstance(content, dict)
        content = {**content, CHECKSUM: _checksum(content)}
    # A lone surrogate, which UTF-8 does not have, becomes the escape that JSON has for it.
    return (json.dumps(content, indent=indent, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _checksum(content: dict[str, Any]) -> str:
    """Of what the object says, however it is laid out."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{google_crc32c.value(text.encode()):08x}"


def _object(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(entries)
    if len(content) < len(entries):
        twice, _ = Counter(name for name, _ in entries).most_common(1)[0]
        raise ValueError(f"the entry {twice[:100]!r} is there twice")
    return content


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds an integer of {len(digits)} digits")
    return int(digits)


def _inside(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
