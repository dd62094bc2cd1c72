"""The cameras of a dataset in numbers, and warnings of those that seem to have moved, or stand elsewhere than told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from spatialvla.data.camera_strips import CameraStrip, Strip, stands_still
from spatialvla.data.depth_summary import DepthSummary
from spatialvla.data.episodes import EpisodeView
from spatialvla.geometry.background_shift import PUSHED, background_shift
from spatialvla.geometry.camera import Camera

_RARE = 0.2
"""Of the episodes: a camera that stands elsewhere in so few was pushed, or calibrated anew; in more it is meant so."""

_IN_VIEW = 0.05
"""Of the steps in which the gripper should be in the picture of a camera that watches it."""

_DIGITS = 3  # of meters and of a rotation's entries: what differs less is the same place


@dataclass(frozen=True)
class CameraSummary:
    """One camera.

    size: (height, width) of its images. intrinsics: K (3, 3) in pixels of an image of `size`, of the first episode
    that has one. depth: of the frames shown; None without a sensor whose depth can be read.
    place: pose in the robot's frame in the first episode that tells, camera -> base, mirrored where the pictures are.
    moves: whether it changes within episodes. places: how many different ones episodes begin with.
    """

    name: str
    size: tuple[int, int]
    intrinsics: Float[np.ndarray, "3 3"] | None
    has_depth: bool
    depth: DepthSummary | None
    place: Float[np.ndarray, "4 4"] | None
    moves: bool
    places: int


@dataclass
class CameraTally:
    """What the numbers of all episodes say of one camera."""

    camera: Camera | None = None
    place: np.ndarray | None = None
    moves: bool = False
    without_intrinsics: int = 0
    _places: dict[bytes, list[int]] = field(default_factory=dict)
    _intrinsics: dict[bytes, list[int]] = field(default_factory=dict)

    def add(self, episode: int, view: EpisodeView) -> None:
        """One more episode."""
        camera, poses = view.camera, view.extrinsics
        self.without_intrinsics += camera is None
        if camera is not None:
            self.camera = self.camera or camera
            key = np.round(camera.scaled_to(1, 1), _DIGITS).tobytes()
            self._intrinsics.setdefault(key, []).append(episode)
        if poses is not None and len(poses):
            self.place = poses[0] if self.place is None else self.place
            self.moves |= not stands_still(poses)
            self._places.setdefault(_place_key(poses[0]), []).append(episode)

    @property
    def places(self) -> int:
        """How many different ones episodes begin with."""
        return len(self._places)

    def warnings(self, which: str) -> Iterator[str]:
        """Of a camera that is told to stand elsewhere, or to have another lens, in a few episodes.

        which: ` 'wrist'`, or "" where there is one camera alone.
        """
        if not self.moves and (odd := _exceptions(self._places)):
            yield (
                f"the camera{which} stands elsewhere in {_named(odd)} than in the others, by its extrinsics; it may "
                "have been pushed there"
            )
        if odd := _exceptions(self._intrinsics):
            yield (
                f"the camera{which} has other intrinsics in {_named(odd)} than in the others; it may be another "
                "camera, or pictures of another size or crop"
            )


def summarize(name: str, tally: CameraTally, strips: Sequence[Strip], has_depth: bool) -> CameraSummary:
    """One camera, by the numbers of all episodes and by those that are shown."""
    seen = [strip.cameras[name] for strip in strips if name in strip.cameras]
    height, width = seen[0].images.shape[1:3] if seen else (0, 0)
    camera = tally.camera
    return CameraSummary(
        name=name,
        size=(height, width),
        intrinsics=None if camera is None else camera.scaled_to(height, width) if seen else camera.intrinsics,
        has_depth=has_depth,
        depth=DepthSummary.of([one.readings for one in seen if one.readings is not None]),
        place=tally.place,
        moves=tally.moves,
        places=tally.places,
    )


def picture_warnings(name: str, which: str, strips: Sequence[Strip]) -> Iterator[str]:
    """Of a camera that has stopped or was pushed, and of depth and calibrations that cannot be.

    which: as `CameraTally.warnings` takes it.
    """
    of = which and f" of the camera{which}"
    seen = [(strip.episode, strip.cameras[name]) for strip in strips if name in strip.cameras]
    looked_at = f"of the {len(seen)} episodes looked at"
    if frozen := [episode for episode, one in seen if one.frozen]:
        yield (
            f"the picture{of} stays the same, bit for bit, while the arm moves, in {len(frozen)} "
            f"{looked_at} (first in {frozen[0]}); the camera may have stopped"
        )
    if odd := [(episode, one.doubt) for episode, one in seen if one.doubt]:
        yield (f"the depth{of} cannot be used in {len(odd)} {looked_at}, as in {odd[0][0]}: {odd[0][1]}")
    yield from _gripper_elsewhere(which, seen, looked_at)
    yield from _pushed(of, seen)


def _gripper_elsewhere(which: str, seen: list[tuple[int, CameraStrip]], looked_at: str) -> Iterator[str]:
    standing = [(episode, one) for episode, one in seen if one.path is not None and one.stands]
    outside = [
        episode
        for episode, one in standing
        if one.path is not None and _share_in_view(one.path, *one.images.shape[1:3]) < _IN_VIEW
    ]
    if outside:
        yield (
            f"the camera{which} should hardly see the gripper in {len(outside)} {looked_at} (first in {outside[0]}), "
            "by its calibration and the arm's state; one of them may be wrong, or in another frame or unit"
        )
    drifted = [(episode, one.sighting) for episode, one in standing if one.sighting and one.sighting.drifted]
    if drifted:
        judged = sum(one.sighting is not None and one.sighting.clear for _, one in standing)
        episode, sighting = drifted[0]
        yield (
            f"the camera{which} sees the gripper elsewhere than its calibration says in {len(drifted)} of {judged} "
            f"episodes looked at: in {episode} {sighting} of it; calibrate it again, or check that the state is the "
            "position of the fingertips in the robot's frame, in meters"
        )


def _share_in_view(path: Float[np.ndarray, "T 2"], height: int, width: int) -> float:
    with np.errstate(invalid="ignore"):
        inside = (path >= 0).all(axis=1) & (path < [width, height]).all(axis=1)
    return float(inside.mean())


def _pushed(of: str, seen: list[tuple[int, CameraStrip]]) -> Iterator[str]:
    """Where the background is shifted though the camera is told, or taken, to stand where it stood."""
    if any(not one.stands for _, one in seen):
        return
    firsts: dict[bytes, tuple[int, CameraStrip]] = {}
    for episode, one in seen:
        place = b"" if one.place is None else _place_key(one.place)
        before, other = firsts.setdefault(place, (episode, one))
        if other.still.shape != one.still.shape:
            continue
        shift = background_shift(other.still, one.still)
        if shift is not None and np.abs(shift).max() >= PUSHED:
            right, down = shift * one.images.shape[2:0:-1]
            yield (
                f"the background{of} is shifted by {right:+.0f} and {down:+.0f} pixels (right, down) "
                f"in episode {episode} against {before}; the camera seems to have been moved in between"
            )
            return


def _place_key(pose: Float[np.ndarray, "4 4"]) -> bytes:
    """The same for poses that differ by less than is told apart; -0 is 0."""
    return (np.round(pose, _DIGITS) + 0.0).tobytes()


def _exceptions(groups: dict[bytes, list[int]]) -> list[int]:
    """The episodes that are not like most, where they are few."""
    count = sum(map(len, groups.values()))
    most = max(groups.values(), key=len, default=[])
    others = sorted(episode for group in groups.values() if group is not most for episode in group)
    return others if 0 < len(others) <= _RARE * count else []


def _named(episodes: Sequence[int]) -> str:
    few = ", ".join(map(str, episodes[:3]))
    return f"{len(episodes)} episodes (first {few})" if len(episodes) > 1 else f"episode {few}"
