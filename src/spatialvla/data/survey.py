"""One pass over a dataset: which samples it has, what is damaged, and its actions' and states' statistics."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.common.cache_folder import keep
from spatialvla.common.worker_signals import dropping_the_rest, end_with_parent
from spatialvla.data.episodes import Episode, EpisodeSource, OnBad
from spatialvla.data.sketches import SAMPLE, ActionSketch, Sketch, StateSketch
from spatialvla.errors import CheckpointError, InputError

_BLOCK = 256  # episodes
_FORMAT = 4  # of the cached files

_AnySketch = TypeVar("_AnySketch", bound=Sketch)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """What one pass over a dataset of E episodes found.

    lengths: (E,) int64 steps of each episode, 0 where it is damaged. samples: (E,) int64 steps that samples
    may start at. tasks: (E,) uint64, a hash of the instruction, 0 where the episode does not say what to do.
    damaged: why each damaged episode could not be read, one sentence each. sketch: of the actions of all
    episodes that could be read.
    states: the same of the arm's states; None where the dataset has no such.
    instructions: all that are given, each once. said: (N, 2) int64 number of an episode, and of one of its
    instructions. empty: episodes without steps that are not damaged, such as those that a spec leaves out.
    """

    lengths: np.ndarray
    samples: np.ndarray
    tasks: np.ndarray
    damaged: tuple[str, ...]
    sketch: ActionSketch
    instructions: tuple[str, ...] = ()
    said: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    empty: int = 0
    states: StateSketch | None = None

    @property
    def instructed(self) -> np.ndarray:
        """(E,) bool, whether the episode says what to do."""
        return np.asarray(self.tasks != 0)

    @property
    def uninstructed(self) -> int:
        """Episodes that can be read, but do not say what to do."""
        return int(((self.lengths > 0) & ~self.instructed).sum())

    @property
    def digest(self) -> str:
        """Of all that is drawn from and learned: the same wherever, and whenever, the same dataset is read."""
        arrays = [self.lengths, self.samples, self.tasks, self.said]
        for sketch in (self.sketch, self.states):
            if sketch is not None:
                # Not the mean: its last digits are the machine's.
                arrays += [sketch.low, sketch.high, sketch.hashes, sketch.sample]
        digest = hashlib.sha256(json.dumps(self.instructions).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def without(self, episodes: np.ndarray, reasons: Sequence[str]) -> Survey:
        """The same with no samples of some episodes, and why."""
        samples = self.samples.copy()
        samples[episodes] = 0
        return replace(self, samples=samples, damaged=(*self.damaged, *reasons))

    def counts(self, keep_uninstructed: bool = False) -> np.ndarray:
        """(E,) int64 samples to train on; episodes without an instruction give none unless they are kept."""
        return self.samples if keep_uninstructed else np.where(self.instructed, self.samples, 0)


def survey(
    source: EpisodeSource,
    workers: int = 1,
    cache: Path | None = None,
    on_bad: OnBad = "raise",
    progress: Callable[[int], None] = lambda episodes: None,
) -> Survey:
    """Read all actions, states and instructions of a dataset once, no images.

    workers: processes; the result is the same bit for bit with any number of them.
    cache: folder of finished surveys, looked up by the source's fingerprint.
    on_bad: whether a damaged episode is an error, or gives no samples and is listed. progress: told the
    number of episodes that were done since it was told before.
    Raises CheckpointError, naming the place, for a damaged episode with on_bad="raise".
    """
    source.prepare(workers)
    path = None if cache is None else kept_at(source, cache)
    found = None if path is None else _load(path)
    log.debug("%s is surveyed%s", source.key, "" if found is None else f", see {path}")
    if found is None:
        # Always the same blocks, merged in order: sums of floats then do not depend on who added them.
        blocks = [range(start, min(start + _BLOCK, len(source))) for start in range(0, len(source), _BLOCK)]
        found = _joined(_told(_surveyed(source, blocks, workers, on_bad), progress))
        if path is not None:
            _save(found, path)
    if found.damaged and on_bad == "raise":
        raise CheckpointError(found.damaged[0])
    return found


def kept_at(source: EpisodeSource, cache: Path) -> Path:
    """The file of a dataset's survey in a folder of finished ones."""
    of_state = f" {source.state_names}" if source.state_names else ""
    digest = hashlib.sha256(f"{_FORMAT} {SAMPLE} {source.fingerprint}{of_state}".encode()).hexdigest()
    return cache / f"{digest[:24]}.npz"


def readable_episodes(
    source: EpisodeSource,
    episodes: Sequence[int],
    sketch: ActionSketch,
    damaged: list[str],
    on_bad: OnBad,
    states: StateSketch | None = None,
) -> Iterator[tuple[int, Episode]]:
    """Those of the `episodes` that can be read, each with its row among them.

    Their actions are added to `sketch`, and the arm's states, which are read where they are asked for, to `states`;
    why each of the others cannot be read is added to `damaged`, or raised as CheckpointError with on_bad="raise".
    """
    for row, number in enumerate(episodes):
        try:
            episode = source.episode(number)
            for view in episode.other_views.values():
                _ = view.camera, view.extrinsics  # read so that damage is found
            acted = _sketched(ActionSketch(), episode.actions, number, source.key)
            stood = None
            if states is not None and (state := episode.state) is not None:
                stood = _sketched(StateSketch(states.size), state, number, source.key)
        except CheckpointError as error:
            if on_bad == "raise":
                raise
            damaged.append(str(error))
            continue
        sketch.merge(acted)
        if states is not None and stood is not None:
            states.merge(stood)
        yield row, episode


def _surveyed(source: EpisodeSource, blocks: list[range], workers: int, on_bad: OnBad) -> Iterator[Survey]:
    if workers <= 1:
        yield from (_block(source, block, on_bad) for block in blocks)
        return
    # Not forked: connections to remote storage do not survive it.
    with (
        ProcessPoolExecutor(
            workers, get_context("spawn"), initializer=_take_source, initargs=(source, on_bad)
        ) as pool,
        dropping_the_rest(pool),
    ):
        waiting = iter(blocks)
        # A few blocks at a time, so that sketches do not pile up where one is slow.
        running = [pool.submit(_block_of_worker, block) for block in islice(waiting, 4 * workers)]
        while running:
            yield running.pop(0).result()
            running += [pool.submit(_block_of_worker, block) for block in islice(waiting, 1)]


_worker_source: tuple[EpisodeSource, OnBad]


def _take_source(source: EpisodeSource, on_bad: OnBad) -> None:
    global _worker_source
    end_with_parent()
    _worker_source = source, on_bad


def _block_of_worker(episodes: range) -> Survey:
    source, on_bad = _worker_source
    return _block(source, episodes, on_bad)


def _block(source: EpisodeSource, episodes: range, on_bad: OnBad) -> Survey:
    lengths, samples = np.zeros((2, len(episodes)), np.int64)
    tasks = np.zeros(len(episodes), np.uint64)
    damaged: list[str] = []
    sketch = ActionSketch()
    states = StateSketch(len(source.state_names)) if source.state_names else None
    texts: dict[str, int] = {}
    said: list[tuple[int, int]] = []
    for row, episode in readable_episodes(source, episodes, sketch, damaged, on_bad, states):
        lengths[row], samples[row] = len(episode.actions), len(episode.starts)
        tasks[row] = zlib.crc32(episode.instruction.encode()) + 1 if episode.instruction else 0
        words = dict.fromkeys(map(episode.instruction_at, range(len(episode.actions))))
        said += [(episodes[row], texts.setdefault(text, len(texts))) for text in words if text]
    pairs = np.array(said, np.int64).reshape(-1, 2)
    empty = int((lengths == 0).sum()) - len(damaged)
    return Survey(lengths, samples, tasks, tuple(damaged), sketch, tuple(texts), pairs, empty, states)


def _sketched(sketch: _AnySketch, numbers: np.ndarray, number: int, key: str) -> _AnySketch:
    """A sketch of one episode alone."""
    try:
        sketch.add(numbers, number)
    except InputError as error:
        raise CheckpointError(f"{key} episode {number}: {error}") from error
    return sketch


def _told(parts: Iterable[Survey], progress: Callable[[int], None]) -> Iterator[Survey]:
    for part in parts:
        yield part
        progress(len(part.lengths))


def _joined(parts: Iterable[Survey]) -> Survey:
    sketch = ActionSketch()
    states: StateSketch | None = None
    lengths, samples, tasks = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    damaged: list[str] = []
    texts: dict[str, int] = {}
    said = [np.zeros((0, 2), np.int64)]
    empty = 0
    for part in parts:
        lengths.append(part.lengths)
        samples.append(part.samples)
        tasks.append(part.tasks)
        damaged += part.damaged
        empty += part.empty
        sketch.merge(part.sketch)
        if part.states is not None:
            states = states or StateSketch(part.states.size)
            states.merge(part.states)
        numbers = np.array([texts.setdefault(text, len(texts)) for text in part.instructions], np.int64)
        said.append(np.stack([part.said[:, 0], numbers[part.said[:, 1]]], axis=1))
    return Survey(
        np.concatenate(lengths),
        np.concatenate(samples),
        np.concatenate(tasks),
        tuple(damaged),
        sketch,
        tuple(texts),
        np.concatenate(said),
        empty,
        states,
    )


def _save(found: Survey, path: Path) -> None:
    arrays = {
        "lengths": found.lengths,
        "samples": found.samples,
        "tasks": found.tasks,
        "damaged": np.array(found.damaged, dtype=str),
        "instructions": np.frombuffer(json.dumps(found.instructions).encode(), np.uint8),
        "said": found.said,
        "empty": np.asarray(found.empty),
        **_stored_sketch("sketch", found.sketch),
        **_stored_sketch("states", found.states),
    }
    keep(path, lambda partial: write_arrays(partial, arrays))


def _load(path: Path) -> Survey | None:
    """A stored survey, or None where there is none, or a damaged one, which is then made again."""
    try:
        stored = read_arrays(path)
        sketch, states = _loaded_sketch("sketch", stored), _loaded_sketch("states", stored)
        return Survey(
            stored["lengths"],
            stored["samples"],
            stored["tasks"],
            tuple(stored["damaged"].tolist()),
            ActionSketch(**sketch),
            tuple(json.loads(stored["instructions"].tobytes())),
            stored["said"],
            int(stored["empty"]),
            StateSketch(**states) if states else None,
        )
    except (ValueError, KeyError, TypeError):
        return None


def _stored_sketch(prefix: str, sketch: Sketch | None) -> dict[str, np.ndarray]:
    entries = {} if sketch is None else vars(sketch)
    return {f"{prefix}_{name}": np.asarray(value) for name, value in entries.items()}


def _loaded_sketch(prefix: str, stored: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What `_stored_sketch` gives, as fields; empty where there is nothing."""
    found: dict[str, Any] = {
        name.removeprefix(f"{prefix}_"): array
        for name, array in stored.items()
        if name.startswith(f"{prefix}_")
    }
    return found | {name: int(found[name]) for name in ("size", "episodes", "count") if name in found}
