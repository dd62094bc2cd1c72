"""What there is to know of a dataset before training on it: numbers, and warnings of what is likely wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spatialvla.actions.statistics import MIN_SPAN, ActionStatistics
from spatialvla.actions.units import ActionUnits
from spatialvla.data.depth_summary import DepthSummary, depth_doubt
from spatialvla.data.episodes import Episode, EpisodeSource
from spatialvla.data.omissions import Omissions
from spatialvla.data.sketches import ActionSketch
from spatialvla.data.step_times import StepTimes
from spatialvla.data.survey import readable_episodes
from spatialvla.errors import CheckpointError, InputError
from spatialvla.types import ACTION_AXES

SHORT = 5
"""Steps; an episode of fewer hardly holds a chunk of actions."""

_MOSTLY = 0.8  # of the episodes
_IDLE = 0.3  # of the steps
_STILL = 1e-5  # meters or radians
_FARTHEST = (0.25, 1.0)  # meters and radians of one step of an arm


@dataclass(frozen=True)
class Strip:
    """Frames of one episode, evenly spread. images: (n, H, W, 3) uint8. steps: (n,).

    frozen: whether a picture comes again, bit for bit, after motions. depth: why its depth cannot be, or "".
    readings: (n, h, w) float32 meters, 0 where nothing was measured; None where there are none.
    """

    episode: int
    instruction: str
    images: np.ndarray
    steps: np.ndarray
    frozen: bool = False
    depth: str = ""
    readings: np.ndarray | None = None


@dataclass(frozen=True)
class Inspection:
    """A dataset in numbers.

    units: of the actions, as far as dataset, mapping or spec say them.
    lengths: (episodes,) steps of the episodes that can be read. instructions: how many episodes have each,
    most frequent first; "" is none. size: (height, width) of the images. intrinsics: K (3, 3) in pixels of an
    image of `size`, of the first episode that has one. statistics: of all actions. sample: (n, 7) actions, a
    uniform sample.
    depth: of the frames shown; None without a sensor whose depth can be read.
    omissions: what a run would leave out. warnings: one sentence each.
    """

    key: str
    control_hz: float
    units: ActionUnits
    lengths: np.ndarray
    instructions: tuple[tuple[str, int], ...]
    size: tuple[int, int]
    intrinsics: np.ndarray | None
    has_depth: bool
    depth: DepthSummary | None
    statistics: ActionStatistics
    sample: np.ndarray
    strips: tuple[Strip, ...]
    omissions: Omissions
    warnings: tuple[str, ...]


@dataclass
class _Tally:
    """What is counted on the way through the episodes."""

    starts_closed: int = 0
    gripper_still: int = 0
    without_camera: int = 0
    idle_steps: int = 0
    gripper_outside: int = 0


def inspect(
    source: EpisodeSource,
    episodes: int | None = None,
    strips: int = 6,
    frames: int = 5,
    progress: Callable[[int, int], None] = lambda done, total: None,
    check: Callable[[str], object] | None = None,
    decode: bool = False,
) -> Inspection:
    """Go through a dataset once; only the images shown are decoded, unless `decode` says all.

    episodes: look at so many, evenly spread, instead of all. strips, frames: episodes to show, and images of
    each. check: raises InputError for an instruction that cannot be used.
    progress: told how many episodes are done. Raises InputError where no episode can be read.
    """
    chosen = _spread(len(source), episodes)
    sketch, tally = ActionSketch(), _Tally()
    lengths: list[int] = []
    words: Counter[str] = Counter()
    omissions, times = Omissions(tuple(source.left_out)), StepTimes(source.control_hz)
    readable: list[int] = []
    camera = None
    for row, episode in readable_episodes(source, chosen, sketch, omissions.damaged, on_bad="skip"):
        progress(row, len(chosen))
        if not len(episode.actions):
            omissions.steps += 1
            continue
        omissions.look(chosen[row], episode, check, decode)
        times.add(episode.columns.get("timestamp"))
        readable.append(chosen[row])
        _count(tally, episode)
        lengths.append(len(episode.actions))
        words[episode.instruction] += 1
        camera = camera or episode.camera
    progress(len(chosen), len(chosen))
    if not readable:
        raise InputError(
            " ".join(("No episode of the dataset can be read.", *omissions.parts[:1], *omissions.damaged[:1]))
        )
    shown = []
    for number in _spread(len(readable), strips):
        try:
            shown.append(_strip(source, readable[number], frames))
        except CheckpointError as error:
            if not decode:
                omissions.pictures.append(f"Episode {readable[number]}: {error}")
    size = (shown[0].images.shape[1], shown[0].images.shape[2]) if shown else (0, 0)
    statistics = sketch.statistics()
    return Inspection(
        key=source.key,
        control_hz=source.control_hz,
        units=source.units,
        lengths=np.array(lengths),
        instructions=tuple(words.most_common()),
        size=size,
        intrinsics=None if camera is None else camera.scaled_to(*size) if shown else camera.intrinsics,
        has_depth=_has_depth(source, readable[0]),
        depth=DepthSummary.of([strip.readings for strip in shown if strip.readings is not None]),
        statistics=statistics,
        sample=sketch.sample,
        strips=tuple(shown),
        omissions=omissions,
        warnings=(
            *source.doubts,
            *times.warnings(),
            *_warnings(np.array(lengths), words, statistics, tally),
            *_far_motions(statistics, source.units),
            *_odd_pictures(shown),
        ),
    )


def _spread(count: int, wanted: int | None) -> list[int]:
    """So many of `count` numbers, evenly spread; all where None is asked for."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(int)).tolist() if wanted else []


def _count(tally: _Tally, episode: Episode) -> None:
    gripper = episode.actions[:, 6]
    tally.starts_closed += bool(gripper[0] < 0.5)
    tally.gripper_still += bool(np.ptp(gripper) == 0)
    tally.gripper_outside += int(((gripper < 0) | (gripper > 1)).sum())
    tally.without_camera += episode.camera is None
    tally.idle_steps += int((np.abs(episode.actions[:, :6]) <= _STILL).all(axis=1).sum())


def _strip(source: EpisodeSource, index: int, frames: int) -> Strip:
    episode = source.episode(index)
    steps = _spread(len(episode.actions), frames)
    images = episode.images(steps)
    frozen = any(
        np.array_equal(images[row], images[row + 1])
        and bool((np.abs(episode.actions[steps[row] : steps[row + 1], :6]) > _STILL).any())
        for row in range(len(steps) - 1)
    )
    readings, doubt = _depth(episode, steps)
    return Strip(index, episode.instruction, images, np.array(steps), frozen, doubt, readings)


def _depth(episode: Episode, steps: Sequence[int]) -> tuple[np.ndarray | None, str]:
    """Readings, if there are any, and why they cannot be used, or ""."""
    try:
        readings = episode.depth(steps)
    except CheckpointError as error:
        return None, str(error)
    return readings, "" if readings is None else depth_doubt(readings)


def _has_depth(source: EpisodeSource, index: int) -> bool:
    try:
        return source.episode(index).depth([0]) is not None
    except CheckpointError:
        return True


def _warnings(
    lengths: np.ndarray,
    words: Counter[str],
    statistics: ActionStatistics,
    tally: _Tally,
) -> list[str]:
    found = []
    episodes, steps = len(lengths), int(lengths.sum())
    span = statistics.max - statistics.min
    if still := [ACTION_AXES[axis] for axis in range(6) if span[axis] < MIN_SPAN]:
        found.append(f"{', '.join(still)} never {'changes' if len(still) == 1 else 'change'}")
    found += _lost_motions(statistics)
    if tally.gripper_outside:
        found.append(
            f"the gripper lies outside of [0, 1] in {tally.gripper_outside} of {steps} steps (from "
            f"{statistics.min[6]:g} to {statistics.max[6]:g}); scale it with a mapping's 'gripper: {{min, max}}'"
        )
    elif span[6] == 0:
        found.append(f"the gripper never changes; it is {statistics.min[6]:g} all the time")
    elif tally.gripper_still > _MOSTLY * episodes:
        found.append(f"the gripper does not change in {tally.gripper_still} of {episodes} episodes")
    if span[6] > 0 and not tally.gripper_outside and tally.starts_closed > _MOSTLY * episodes:
        found.append(
            f"the gripper is closed at the start of {tally.starts_closed} of {episodes} episodes; it may be "
            "inverted (1 is open)"
        )
    if short := int((lengths < SHORT).sum()):
        found.append(f"{short} of {episodes} episodes have fewer than {SHORT} steps")
    if tally.without_camera:
        found.append(f"the intrinsics are unknown in {tally.without_camera} of {episodes} episodes")
    if tally.idle_steps > _IDLE * steps:
        found.append(
            f"nothing moves in {tally.idle_steps / steps:.0%} of the steps; leave them out as no-ops"
        )
    return found


def _odd_pictures(shown: Sequence[Strip]) -> Iterator[str]:
    """Cameras and depth sensors that have stopped, or count in something else."""
    if frozen := [strip.episode for strip in shown if strip.frozen]:
        yield (
            f"the picture stays the same, bit for bit, while the arm moves, in {len(frozen)} of the {len(shown)} "
            f"episodes looked at (first in {frozen[0]}); the camera may have stopped"
        )
    if odd := [strip for strip in shown if strip.depth]:
        yield (
            f"the depth cannot be used in {len(odd)} of the {len(shown)} episodes looked at, as in "
            f"{odd[0].episode}: {odd[0].depth}"
        )


def _far_motions(statistics: ActionStatistics, units: ActionUnits) -> Iterator[str]:
    """Steps that are too far in meters or radians, so that the numbers are likely something else."""
    reached = np.maximum(np.abs(statistics.q01), np.abs(statistics.q99))[:6].reshape(2, 3).max(axis=1)
    scale = (units.meters or 1.0, units.radians or 1.0)
    parts = zip(("translation", "rotation"), ("meters", "radians"), reached, scale, _FARTHEST, strict=True)
    for part, unit, number, one, farthest in parts:
        if number * one > farthest:
            yield (
                f"the {part} reaches {number:.3g} in a step (q01 to q99), and no arm moves {number * one:.3g} {unit} "
                "in one; the actions may be a controller's units or absolute poses"
            )


def _lost_motions(statistics: ActionStatistics) -> Iterator[str]:
    """Dimensions that normalization by q01 and q99 takes for still, or whose noise it makes the full range."""
    for axis, name in enumerate(ACTION_AXES[:6]):
        lowest, highest = statistics.min[axis], statistics.max[axis]
        span = statistics.q99[axis] - statistics.q01[axis]
        if span < _STILL < highest - lowest:
            yield (
                f"{name} moves in fewer than 1 % of the steps, from {lowest:g} to {highest:g}, but q01 is "
                f"{statistics.q01[axis]:g} and q99 {statistics.q99[axis]:g}; what lies outside of them is not learned"
            )
        elif MIN_SPAN <= span < _STILL:
            yield (
                f"{name} hardly moves: from {statistics.q01[axis]:g} (q01) to {statistics.q99[axis]:g} "
                "(q99), which normalization makes the full range; it may be rounding noise, to be set to 0"
            )
