"""The key of a dataset: its name, with its version as TFDS writes it, or the Hub id of a LeRobot dataset."""

from __future__ import annotations

import re

_VERSION = re.compile(r"/\d+\.\d+\.\d+$")


def unversioned(key: str) -> str:
    """`kuka/0.1.0` -> `kuka`; a Hub id (`owner/dataset`) has no version, and stays as it is."""
    return _VERSION.sub("", key)
