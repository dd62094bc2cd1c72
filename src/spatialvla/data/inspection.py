"""What there is to know of a dataset before training on it: numbers, and warnings of what is likely wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spatialvla.actions.statistics import MIN_SPAN, ActionStatistics
from spatialvla.actions.units import ActionUnits
from spatialvla.data.action_doubts import far_motions, idle_gripper, lost_motions
from spatialvla.data.camera_strips import STILL, Strip, cameras_of, own_pictures, strip_of
from spatialvla.data.camera_summary import CameraSummary, CameraTally, picture_warnings, summarize
from spatialvla.data.episodes import Episode, EpisodeSource, has_sensor
from spatialvla.data.gripper_track import gripper_positions, position_indices
from spatialvla.data.omissions import Omissions
from spatialvla.data.sketches import ActionSketch, StateSketch
from spatialvla.data.step_times import StepTimes
from spatialvla.data.survey import readable_episodes
from spatialvla.errors import CheckpointError, InputError
from spatialvla.types import ACTION_AXES

SHORT = 5
"""Steps; an episode of fewer hardly holds a chunk of actions."""

_MOSTLY = 0.8  # of the episodes
_IDLE = 0.3  # of the steps
_REACH = 5.0  # meters


@dataclass(frozen=True)
class Inspection:
    """A dataset in numbers.

    units: of the actions, as far as dataset, mapping or spec say them.
    lengths: (episodes,) steps of the episodes that can be read. instructions: how many episodes have each,
    most frequent first; "" is none. cameras: the first one first. statistics: of all actions. sample: (n, 7) actions,
    a uniform sample.
    state: (S,) names and statistics of the arm's own numbers; None where it has no such.
    omissions: what a run would leave out. warnings: one sentence each.
    """

    key: str
    control_hz: float
    units: ActionUnits
    lengths: np.ndarray
    instructions: tuple[tuple[str, int], ...]
    cameras: tuple[CameraSummary, ...]
    statistics: ActionStatistics
    sample: np.ndarray
    state: StateRanges | None
    strips: tuple[Strip, ...]
    omissions: Omissions
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class StateRanges:
    """The arm's own numbers, in the dataset's units: (S,) each."""

    names: tuple[str, ...]
    q01: np.ndarray
    q99: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray


@dataclass
class _Tally:
    """What is counted on the way through the episodes."""

    starts_closed: int = 0
    gripper_still: int = 0
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
    states = StateSketch(len(source.state_names)) if source.state_names else None
    cameras: dict[str, CameraTally] = {}
    lengths: list[int] = []
    words: Counter[str] = Counter()
    omissions, times = Omissions(tuple(source.left_out)), StepTimes(source.control_hz)
    readable: list[int] = []
    for row, episode in readable_episodes(
        source, chosen, sketch, omissions.damaged, on_bad="skip", states=states
    ):
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
        for name, view in cameras_of(episode).items():
            cameras.setdefault(name, CameraTally()).add(chosen[row], view)
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
            omissions.add_pictures(readable[number], str(error))
    statistics, depths = sketch.statistics(), _have_depth(source, readable[0])
    return Inspection(
        key=source.key,
        control_hz=source.control_hz,
        units=source.units,
        lengths=np.array(lengths),
        instructions=tuple(words.most_common()),
        cameras=tuple(summarize(name, one, shown, name in depths) for name, one in cameras.items()),
        statistics=statistics,
        sample=sketch.sample,
        state=_ranges(source.state_names, states),
        strips=tuple(shown),
        omissions=omissions,
        warnings=(
            *source.doubts,
            *times.warnings(),
            *_warnings(np.array(lengths), words, statistics, tally),
            *far_motions(statistics, source.units),
            *_far_positions(source.state_names, states),
            *_of_cameras(cameras, shown, len(lengths)),
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
    tally.idle_steps += int((np.abs(episode.actions[:, :6]) <= STILL).all(axis=1).sum())


def _strip(source: EpisodeSource, index: int, frames: int) -> Strip:
    episode = source.episode(index)
    seen = own_pictures(episode)
    steps = seen[_spread(len(seen), frames)]
    return strip_of(index, episode, steps.tolist(), gripper_positions(source, episode))


def _have_depth(source: EpisodeSource, index: int) -> set[str]:
    """The cameras with a sensor's depth, also if it cannot be read."""
    return {name for name, view in cameras_of(source.episode(index)).items() if has_sensor(view)}


def _ranges(names: tuple[str, ...], states: StateSketch | None) -> StateRanges | None:
    if states is None or not states.count:
        return None
    found, spread = states.statistics(), np.sqrt(states.squares / states.count)
    return StateRanges(names, found.q01, found.q99, states.mean, spread, states.low, states.high)


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
    found += lost_motions(statistics)
    if tally.gripper_outside:
        found.append(
            f"the gripper lies outside of [0, 1] in {tally.gripper_outside} of {steps} steps (from "
            f"{statistics.min[6]:g} to {statistics.max[6]:g}); scale it with a mapping's 'gripper: {{min, max}}'"
        )
    elif doubt := idle_gripper(statistics):
        found.append(doubt)
    elif tally.gripper_still > _MOSTLY * episodes:
        found.append(f"the gripper does not change in {tally.gripper_still} of {episodes} episodes")
    if (
        statistics.max[6] >= 0.5
        and span[6] > 0
        and not tally.gripper_outside
        and tally.starts_closed > _MOSTLY * episodes
    ):
        found.append(
            f"the gripper is closed at the start of {tally.starts_closed} of {episodes} episodes; it may be "
            "inverted (1 is open)"
        )
    if short := int((lengths < SHORT).sum()):
        found.append(f"{short} of {episodes} episodes have fewer than {SHORT} steps")
    if tally.idle_steps > _IDLE * steps:
        found.append(
            f"nothing moves in {tally.idle_steps / steps:.0%} of the steps; leave them out as no-ops"
        )
    return found


def _of_cameras(cameras: Mapping[str, CameraTally], shown: Sequence[Strip], episodes: int) -> Iterator[str]:
    for name, tally in cameras.items():
        which = f" '{name}'" if len(cameras) > 1 else ""
        if missing := tally.without_intrinsics:
            of = which and f" of the camera{which}"
            yield f"the intrinsics{of} are unknown in {missing} of {episodes} episodes"
        yield from tally.warnings(which)
        yield from picture_warnings(name, which, shown)


def _far_positions(names: tuple[str, ...], states: StateSketch | None) -> Iterator[str]:
    """A gripper that is where no arm reaches, so that its position is likely in other units."""
    indices = position_indices(names)
    if indices is None or states is None or not states.count:
        return
    farthest = float(np.abs(np.quantile(states.sample[:, indices], (0.01, 0.99), axis=0)).max())
    if farthest > _REACH:
        yield (
            f"the state's {', '.join(names[index] for index in indices)} reach {farthest:.3g}, and no arm reaches "
            "so many meters; their unit may be millimeters"
        )
