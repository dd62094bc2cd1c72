"""Keeps a few decisions of each task's first planned episode, so that the report can show them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.common.files import replacing
from spatialvla.errors import InputError
from spatialvla.evaluation.play.episode_video import episode_name
from spatialvla.evaluation.results.plan import EpisodeId
from spatialvla.types import ActionChunk, CameraImage, Observation

_CAMERAS = "cameras"
"""Arrays of further cameras are called `<number>.cameras/<camera>/<part>` in a file."""


@dataclass(frozen=True)
class KeptDecision:
    """One decision: at which step, on what, and what came out."""

    step: int
    observation: Observation
    chunk: ActionChunk


class DecisionKeeper:
    """Collects the decisions of each task's first episode and thins them out evenly when the episode ends.

    per_episode: how many stay.
    folder: where they are stored, for an evaluation that is resumed, a file an episode, as shards begin a task at
    different start states; None keeps them in memory alone.
    Raises InputError where fewer than 0 are to stay.
    """

    def __init__(self, per_episode: int, folder: Path | None = None) -> None:
        if per_episode < 0:
            raise InputError(f"The report shows 0 or more decisions of a task, not {per_episode}.")
        self._per_episode = per_episode
        self._folder = folder
        self._first: Mapping[int, int] = {}
        self._open: dict[int, list[KeptDecision]] = {}
        self._kept: dict[int, tuple[KeptDecision, ...]] = {}

    @property
    def kept(self) -> dict[int, tuple[KeptDecision, ...]]:
        """Task number -> its decisions in order, of the episodes that have ended."""
        return self._kept

    def expect(self, first: Mapping[int, int], played: Container[EpisodeId] = ()) -> None:
        """Says which episodes to keep decisions of, and takes up what was stored of those that were played.

        first: task number -> start state of its first episode.
        """
        self._first = first
        for task, start_state in first.items():
            path = self._file(task, start_state)
            if EpisodeId(task, start_state) in played and path is not None and path.exists():
                self._kept[task] = _load(path)

    def add(self, task: int, start_state: int, decision: KeptDecision) -> None:
        """Takes the next decision of an episode, if it is of the ones to keep."""
        if self._first.get(task) == start_state and self._per_episode:
            self._open.setdefault(task, []).append(decision)

    def ended(self, task: int, start_state: int) -> None:
        """Thins out and stores what was taken of an episode that has ended."""
        if self._first.get(task) == start_state and task in self._open:
            decisions = self._open.pop(task)
            # The first decision, then evenly on; nothing is decided at the very end.
            chosen = np.linspace(0, len(decisions), self._per_episode, endpoint=False).astype(int)
            self._kept[task] = tuple(decisions[index] for index in dict.fromkeys(chosen.tolist()))
            if path := self._file(task, start_state):
                _save(path, self._kept[task])

    def _file(self, task: int, start_state: int) -> Path | None:
        name = episode_name(EpisodeId(task, start_state))
        return self._folder / f"{name}.npz" if self._folder else None


def _save(path: Path, decisions: Iterable[KeptDecision]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for number, decision in enumerate(decisions):
        seen, chunk = decision.observation, decision.chunk
        parts = {
            "step": decision.step,
            "instruction": seen.instruction,
            "state": seen.state,
            "actions": chunk.actions,
            "tokens": chunk.tokens,
            **_parts(seen),
        }
        for name, camera in seen.images.items():
            parts |= {f"{_CAMERAS}/{name}/{part}": value for part, value in _parts(camera).items()}
        arrays |= {f"{number}.{name}": np.asarray(part) for name, part in parts.items() if part is not None}
    with replacing(path) as partial:
        write_arrays(partial, arrays, compress=True)


def _parts(seen: Observation | CameraImage) -> dict[str, object]:
    """What one camera saw, by the names of the fields."""
    return {part: getattr(seen, part) for part in CameraImage.__dataclass_fields__}


def _load(path: Path) -> tuple[KeptDecision, ...]:
    """What `_save` wrote; nothing where the file is damaged, as the report can do without."""
    decisions = []
    try:
        arrays = read_arrays(path)
        for number in range(len({name.split(".")[0] for name in arrays})):
            instruction, step = str(arrays[f"{number}.instruction"]), int(arrays[f"{number}.step"])
            first, cameras = _camera(arrays, f"{number}."), f"{number}.{_CAMERAS}/"
            names = dict.fromkeys(name.split("/")[1] for name in arrays if name.startswith(cameras))
            seen = Observation(
                first.image,
                instruction,
                first.intrinsics,
                first.depth,
                first.extrinsics,
                first.mirrored,
                {name: _camera(arrays, f"{cameras}{name}/") for name in names},
                arrays.get(f"{number}.state"),
            )
            chunk = ActionChunk(arrays[f"{number}.actions"], arrays[f"{number}.tokens"])
            decisions.append(KeptDecision(step, seen, chunk))
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(decisions)


def _camera(arrays: Mapping[str, np.ndarray], prefix: str) -> CameraImage:
    K, depth, pose = (arrays.get(f"{prefix}{name}") for name in ("intrinsics", "depth", "extrinsics"))
    return CameraImage(arrays[f"{prefix}image"], K, depth, pose, bool(arrays.get(f"{prefix}mirrored", False)))
