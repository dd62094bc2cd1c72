"""Draw docs/images/frames.svg: a robot's base, its gripper, a standing camera and a wrist camera, each with axes.

python docs/extensions/frames.py
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spatialvla.geometry.extrinsics import pose_matrix, project, transform, wrist_extrinsics

PICTURE = Path(__file__).parents[1] / "images" / "frames.svg"
WIDTH, HEIGHT = 720, 440
K = np.array([[800.0, 0, 335], [0, 800, 215], [0, 0, 1]])
INK, AXES = "#7d828c", ("#d6455d", "#3f9e5a", "#5b8dd9")

BASE = np.eye(4)
GRIPPER = pose_matrix(np.array([0.5, 0.1, 0.35]), np.diag([1.0, -1.0, -1.0]))
HAND_EYE = pose_matrix(np.array([0.2, 0.05, -0.06]), np.eye(3))
POINT = np.array([0.62, 0.02, 0.0])


def looking_at(position: tuple[float, float, float], target: tuple[float, float, float]) -> np.ndarray:
    """Extrinsics of an upright camera."""
    forward = np.subtract(target, position) / np.linalg.norm(np.subtract(target, position))
    right = np.cross(forward, [0, 0, 1]) / np.linalg.norm(np.cross(forward, [0, 0, 1]))
    return pose_matrix(np.array(position), np.stack([right, np.cross(forward, right), forward], axis=1))


FRONT = looking_at((1.25, 0.0, 0.65), (0.5, 0.0, 0.1))
WRIST = wrist_extrinsics(GRIPPER, HAND_EYE)
OBSERVER = looking_at((1.5, -1.75, 1.05), (0.58, 0.05, 0.26))


def seen(points: np.ndarray) -> np.ndarray:
    """Where the reader sees points (N, 3) of the robot's frame: pixels (N, 2)."""
    return project(np.asarray(points, float), K, OBSERVER)[0]


def line(points: np.ndarray, color: str = INK, width: float = 1.5, more: str = "") -> str:
    """A line through points of the robot's frame."""
    path = " ".join(f"{u:.1f},{v:.1f}" for u, v in seen(points))
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" {more}/>'


def text(pixel: np.ndarray, words: str, color: str = INK, anchor: str = "start") -> str:
    """Words at a pixel."""
    u, v = pixel
    return f'<text x="{u:.1f}" y="{v:.1f}" fill="{color}" text-anchor="{anchor}">{words}</text>'


def axes(pose: np.ndarray, length: float = 0.14) -> Iterator[str]:
    """x red, y green, z blue of a frame, with their letters."""
    for number, (name, color) in enumerate(zip("xyz", AXES, strict=True)):
        tip = transform(pose, np.eye(3)[number : number + 1] * length)[0]
        yield line(np.stack([pose[:3, 3], tip]), color, 3)
        yield text(
            seen(transform(pose, np.eye(3)[number : number + 1] * length * 1.2))[0] + [-3, 4], name, color
        )


def view(pose: np.ndarray, depth: float) -> Iterator[str]:
    """The pyramid that a camera sees, `depth` meters deep."""
    corners = np.array([[-0.4, -0.3, 1], [0.4, -0.3, 1], [0.4, 0.3, 1], [-0.4, 0.3, 1]]) * depth
    ends = transform(pose, corners)
    yield line(np.concatenate([ends, ends[:1]]), INK, 1)
    for end in ends:
        yield line(np.stack([pose[:3, 3], end]), INK, 1)


def arrow(start: np.ndarray, end: np.ndarray, words: str, shift: tuple[float, float]) -> Iterator[str]:
    """A dashed way from frame to frame."""
    ways = start + np.array([[0.12], [0.9]]) * (end - start)
    yield line(ways, INK, 1.5, 'stroke-dasharray="6 4" marker-end="url(#tip)"')
    yield text(seen(ways.mean(axis=0)[None])[0] + shift, words, INK, "middle")


def parts() -> Iterator[str]:
    """All that is drawn, from the back to the front."""
    yield line(
        np.array([[0.15, -0.4, 0], [0.95, -0.4, 0], [0.95, 0.45, 0], [0.15, 0.45, 0], [0.15, -0.4, 0]])
    )
    yield from view(FRONT, 0.3)
    yield from view(WRIST, 0.18)
    for camera in (FRONT, WRIST):
        yield line(np.stack([camera[:3, 3], POINT]), AXES[2], 1, 'stroke-dasharray="2 3"')
    u, v = seen(POINT[None])[0]
    yield f'<circle cx="{u:.1f}" cy="{v:.1f}" r="5" fill="{AXES[0]}"/>'
    yield text(np.array([u + 10, v + 14]), "the same point from both")
    yield from arrow(FRONT[:3, 3], BASE[:3, 3], "E", (84, -14))
    yield from arrow(GRIPPER[:3, 3], BASE[:3, 3], "G", (-4, -8))
    yield from arrow(WRIST[:3, 3], GRIPPER[:3, 3], "X", (-6, -8))
    for pose, name, shift in (
        (BASE, "robot base", (-40, 26)),
        (GRIPPER, "gripper", (-46, -12)),
        (FRONT, "front camera", (-60, -14)),
        (WRIST, "wrist camera: E = G · X", (-44, -46)),
    ):
        yield from axes(pose)
        yield text(seen(pose[None, :3, 3])[0] + shift, name)


def picture() -> str:
    """The drawing as SVG."""
    tip = f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/>'
    marker = (
        f'<marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">{tip}</marker>'
    )
    style = 'font-family="sans-serif" font-size="14"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" {style}>'
    return "\n".join([head, f"<defs>{marker}</defs>", *parts(), "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
