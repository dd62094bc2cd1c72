"""Names of what a recording holds: Rerun calls them entity paths."""

from __future__ import annotations

ROBOT = "robot"
"""The robot's frame: its base is the origin, in meters."""

UNPLACED = "unplaced"
"""Cameras of which nobody says where they stand, each in its own frame."""

GRIPPER = f"{ROBOT}/gripper"
PATH = f"{GRIPPER}/path"
RECORDED_PATH = f"{GRIPPER}/recorded"
CHUNK = f"{ROBOT}/chunk"

UNPLACED_CHUNK = "chunk"
"""A chunk that cannot be drawn in the robot's frame, from an origin of its own."""

ACTIONS = "actions"
ENTROPY = "uncertainty/entropy"
PROBABILITIES = "uncertainty/probabilities"
"""Of all cells of the next step, below it by translation, rotation and gripper."""

POSSIBLE = f"{ROBOT}/possible"
"""Where the translations that the policy thought possible would lead the gripper in the next step."""

LOG = "log"
"""What went wrong while it was recorded, with its step."""

EPISODE = "episode"
"""Instruction, outcome and what there is to know of the recording, as text."""


def camera(name: str, *, placed: bool) -> str:
    """The camera: its place, its K, and below it its pictures."""
    return f"{ROBOT}/cameras/{name}" if placed else f"{UNPLACED}/{name}/camera"


def points(name: str, kind: str, *, placed: bool) -> str:
    """Colored points. kind: `estimated` or `measured`."""
    return f"{ROBOT}/points/{name}/{kind}" if placed else f"{UNPLACED}/{name}/points/{kind}"
