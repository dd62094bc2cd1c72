"""A dataset made up on the spot: every number and pixel tells where it is from."""

from dataclasses import dataclass, field, replace

import numpy as np

from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera

CAMERA = Camera(np.array([[100.0, 0, 40], [0, 100, 30], [0, 0, 1]]), height=60, width=80)


@dataclass
class FakeEpisode:
    index: int
    instruction: str
    actions: np.ndarray
    starts: np.ndarray
    camera: Camera | None
    extrinsics: np.ndarray | None
    size: tuple[int, int]
    has_depth: bool
    broken_images: bool
    where: str
    columns: dict
    other_views: dict = field(default_factory=dict)
    state: np.ndarray | None = None

    def instruction_at(self, step):
        return self.instruction

    def images(self, steps):
        if self.broken_images:
            raise CheckpointError(f"{self.where} holds a broken image")
        rows = [np.random.default_rng([self.index, step]) for step in steps]
        return np.stack([rng.integers(0, 255, (*self.size, 3), dtype=np.uint8) for rng in rows])

    def depth(self, steps):
        if not self.has_depth:
            return None
        depth = np.full((len(steps), *self.size), 1.0 + self.index, np.float32)
        depth[:, :2] = 0
        return depth


@dataclass(frozen=True)
class FakeView:
    """One more camera; of its pictures the seed says episode, step and camera. index: of the episode."""

    seed: int
    camera: Camera | None = CAMERA
    place: np.ndarray | None = None  # of every step
    size: tuple[int, int] = (60, 80)
    depth_meters: float | None = None
    missing_in: frozenset = frozenset()  # episodes
    index: int = 0
    length: int = 0

    @property
    def extrinsics(self):
        return None if self.place is None else np.tile(self.place, (self.length, 1, 1))

    def images(self, steps):
        rows = [np.random.default_rng([self.seed, self.index, step]) for step in steps]
        return np.stack([rng.integers(0, 255, (*self.size, 3), dtype=np.uint8) for rng in rows])

    def depth(self, steps):
        if self.depth_meters is None:
            return None
        return np.full((len(steps), *self.size), self.depth_meters + self.index, np.float32)


@dataclass
class FakeSource:
    """Action k of episode e: (k, e, 0, 0, 0, 0, 1 while k is even). Its state: (k, e), as far as it has names."""

    key: str
    lengths: tuple[int, ...]
    mute: frozenset = frozenset()
    damaged: frozenset = frozenset()
    broken_images: frozenset = frozenset()
    size: tuple[int, int] = (60, 80)
    camera: Camera | None = CAMERA
    has_depth: bool = False
    extrinsics: np.ndarray | None = None  # of every step
    no_ops: frozenset = frozenset()
    control_hz: float = 5.0
    units: ActionUnits = UNKNOWN
    state_names: tuple[str, ...] = ()
    reads: list = field(default_factory=list)
    left_out: tuple = ()
    doubts: tuple = ()
    takeover: dict = field(default_factory=dict)  # steps that were taken over, by episode
    views: dict = field(default_factory=dict)  # FakeView by name
    stateless: frozenset = frozenset()  # episodes

    @property
    def fingerprint(self):
        return f"{self.key} {self.lengths} {sorted(self.damaged)}"

    @property
    def contents(self):
        return self.fingerprint

    def __len__(self):
        return len(self.lengths)

    def prepare(self, workers):
        pass

    def episode(self, index):
        self.reads.append(index)
        if index in self.damaged:
            raise CheckpointError(f"{self.key} shard 0, offset {index} is damaged")
        length = self.lengths[index]
        actions = np.zeros((length, 7))
        actions[:, 0] = np.arange(length)
        actions[:, 1] = index
        actions[:, 6] = np.arange(length) % 2 == 0
        return FakeEpisode(
            index=index,
            instruction="" if index in self.mute else f"move {index}",
            actions=actions,
            starts=np.array([step for step in range(length) if step not in self.no_ops]),
            camera=self.camera,
            extrinsics=None if self.extrinsics is None else np.tile(self.extrinsics, (length, 1, 1)),
            size=self.size,
            has_depth=self.has_depth,
            broken_images=index in self.broken_images,
            where=f"{self.key} episode {index}",
            other_views={
                name: replace(view, index=index, length=length)
                for name, view in self.views.items()
                if index not in view.missing_in
            },
            state=None
            if not self.state_names or index in self.stateless
            else actions[:, : len(self.state_names)].copy(),
            columns={"takeover": np.isin(np.arange(length), self.takeover[index])} if self.takeover else {},
        )
