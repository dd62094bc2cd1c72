"""Episodes -> samples: every frame of a dataset in one block, its action chunk, and a repeatable shuffle."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from spatialvla.actions.grids import ActionGrid, Bins
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.common.files import replacing
from spatialvla.data.episodes import action_chunks
from spatialvla.data.lerobot import LeRobotDataset, StoredEpisode
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import resize_intrinsics

CACHE = ".decoded"
INTRINSICS = "observation.intrinsics"
TAKEOVER = "takeover"
"""The feature that is not 0 where something else was done than the action says (DAgger)."""


@dataclass(frozen=True)
class Sample:
    """One frame and what the robot did next.

    image: (H, W, 3) uint8 RGB. intrinsics: K (3, 3) in its pixels, None where the dataset has none.
    actions: (chunk, 7) in the dataset's units. depth: (H, W) metres, 0 where there is no reading, or None.
    episode, frame: where it is from, both counted from 0.
    """

    image: np.ndarray
    intrinsics: np.ndarray | None
    instruction: str
    actions: np.ndarray
    depth: np.ndarray | None
    episode: int
    frame: int


@dataclass(frozen=True)
class EpisodeSamples:
    """A dataset held decoded, N frames in episode order; index i is a frame of the whole dataset.

    images: (N, H, W, 3) uint8, mapped from a file. depth: (N, H, W) float16 metres, or None.
    actions: (N, 7) float64 in the dataset's units. intrinsics: (N, 3, 3) float64, or None.
    columns: the other numbers of each frame by feature name, (N, …).
    episodes: (N,) the episode of each frame. starts, ends: (episodes,) first frame, and one past the last.
    instructions: one an episode. chunk: actions a sample. folder: of the decoded frames.
    """

    images: np.ndarray
    depth: np.ndarray | None
    actions: np.ndarray
    intrinsics: np.ndarray | None
    columns: Mapping[str, np.ndarray] = field(repr=False)
    episodes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    instructions: tuple[str, ...]
    chunk: int
    fingerprint: str
    folder: Path

    @classmethod
    def open(
        cls,
        root: str | Path,
        chunk: int,
        size: int | None = None,
        camera: str | None = None,
        cache: str | Path | None = None,
    ) -> EpisodeSamples:
        """Read a LeRobot dataset; frames are decoded once and kept as .npy files for the next time.

        size: scale the frames to squares of so many pixels, colours bicubic as the processor does, depth to
        the nearest pixel; the intrinsics follow. None keeps them as they are.
        camera: the RGB feature to look through; None takes the only one. A depth feature of the same camera
        ('observation.depth.<name>' for 'observation.images.<name>') is read along.
        cache: folder of the decoded frames, '.decoded' inside the dataset unless given.
        Raises InputError for an unknown camera or a dataset without actions (7) a frame.
        """
        dataset = LeRobotDataset(root)
        camera = _camera(dataset, camera)
        depth = camera.replace("images", "depth")
        fingerprint = _fingerprint(dataset)
        cached = Path(cache or dataset.root / CACHE) / fingerprint
        folder = cached / ("full" if size is None else f"{size}px")
        episodes = [_checked(episode) for episode in dataset]
        ends = np.cumsum(dataset.lengths)
        names = [
            name
            for name, values in episodes[0].columns.items()
            if name not in ("action", INTRINSICS) and values.dtype.kind == "f"
        ]

        def column(name: str) -> np.ndarray:
            return np.concatenate([episode.columns[name] for episode in episodes])

        has_depth = depth != camera and depth in dataset.features
        intrinsics = None
        if INTRINSICS in dataset.features:
            height, width = dataset.features[camera].shape[:2]
            new_size = (height, width) if size is None else (size, size)
            intrinsics = resize_intrinsics(column(INTRINSICS).astype(np.float64), (height, width), new_size)
        return cls(
            images=_decoded(folder / f"{camera}.npy", episodes, camera, size),
            depth=_decoded(folder / f"{depth}.npy", episodes, depth, size) if has_depth else None,
            actions=column("action").astype(np.float64),
            intrinsics=intrinsics,
            columns={name: column(name) for name in names},
            episodes=np.repeat(np.arange(len(dataset)), dataset.lengths),
            starts=ends - dataset.lengths,
            ends=ends,
            instructions=tuple(episode.instruction for episode in episodes),
            chunk=chunk,
            fingerprint=fingerprint,
            folder=cached,
        )

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int) -> Sample:
        """The sample of frame `index`."""
        episode = int(self.episodes[index])
        return Sample(
            image=self.images[index],
            intrinsics=None if self.intrinsics is None else self.intrinsics[index],
            instruction=self.instructions[episode],
            actions=self.chunks(np.array([index]))[0],
            depth=None if self.depth is None else self.depth[index].astype(np.float32),
            episode=episode,
            frame=int(index - self.starts[episode]),
        )

    def chunks(self, indices: np.ndarray) -> np.ndarray:
        """The actions from each of these frames on, (B, chunk, 7); see `action_chunks` for ends of episodes."""
        return action_chunks(self.actions, indices, self.ends[self.episodes[indices]], self.chunk)

    def lessons(self, indices: np.ndarray) -> np.ndarray:
        """Those of the frames whose actions were all carried out.

        Where a policy drove, each action answers a state that the actions before it would not have led to: together
        they are no plan. All frames are lessons in a dataset that has no TAKEOVER.
        """
        if TAKEOVER not in self.columns:
            return indices
        ends = self.ends[self.episodes[indices]]
        rows = np.minimum(indices[:, None] + np.arange(self.chunk), ends[:, None] - 1)
        return indices[~(self.columns[TAKEOVER].reshape(-1)[rows] != 0).any(axis=1)]

    def prompts(self, indices: np.ndarray) -> list[str]:
        """The instruction of each of these frames."""
        return [self.instructions[episode] for episode in self.episodes[indices]]

    def statistics(self) -> ActionStatistics:
        """Statistics of all actions, the gripper not normalised."""
        return ActionStatistics.from_actions(self.actions, num_trajectories=len(self.ends))

    def fit_grid(self, bins: Bins, min_sigma: float = 0.0) -> ActionGrid:
        """The action grid fitted to all actions, normalised by this dataset's own statistics."""
        return ActionGrid.fit(self.statistics().normalize(self.actions), min_sigma, bins)

    def split(self, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Frames of the training and of the held-out episodes, in order.

        held_out: fraction of the episodes; all instructions give about the same share. 0 holds out none.
        """
        if not 0 <= held_out < 1:
            raise InputError(f"The held-out fraction must lie in [0, 1), not {held_out}.")
        count = round(held_out * len(self.ends)) if len(self.ends) > 1 else 0
        count = max(count, 1) if held_out > 0 and len(self.ends) > 1 else count
        shuffled = np.random.default_rng(seed).permutation(len(self.ends))
        by_instruction = shuffled[np.argsort([self.instructions[i] for i in shuffled], kind="stable")]
        places = (np.arange(count) + 0.5) / max(count, 1) * len(self.ends)
        is_held_out = np.isin(self.episodes, by_instruction[places.astype(int)])
        return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


class IndexStream:
    """An endless shuffle of `indices` in batches, made from (seed, step) alone: a step is all to resume from.

    Every epoch is a permutation of its own, and a batch may reach into the next epoch.
    """

    def __init__(self, indices: np.ndarray, batch_size: int, seed: int) -> None:
        """Raises InputError when there is nothing to draw from."""
        if len(indices) == 0 or batch_size < 1:
            raise InputError(f"Cannot draw batches of {batch_size} from {len(indices)} samples.")
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self._epochs: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> np.ndarray:
        """(batch_size,) indices of the step's samples; steps count from 0."""
        position = step * self.batch_size
        parts: list[np.ndarray] = []
        missing = self.batch_size
        while missing:
            epoch, offset = divmod(position, len(self.indices))
            part = self._epoch(epoch)[offset : offset + missing]
            parts.append(part)
            position += len(part)
            missing -= len(part)
        return np.concatenate(parts)

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            shuffled = np.random.default_rng([self.seed, epoch]).permutation(self.indices)
            self._epochs = {k: v for k, v in self._epochs.items() if k == epoch - 1} | {epoch: shuffled}
        return self._epochs[epoch]


def write_array(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, blocks: Iterable[np.ndarray]
) -> np.ndarray:
    """Fill a .npy file block by block along the first axis, under a temporary name until complete; mapped.

    Raises CheckpointError where the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape)) * dtype.itemsize, shutil.disk_usage(path.parent).free
    if needed > free:
        raise CheckpointError(
            f"{path} needs {needed / 1e9:.1f} GB and only {free / 1e9:.1f} GB are free; choose another cache."
        )
    with replacing(path) as partial:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        filled = 0
        for block in blocks:
            array[filled : filled + len(block)] = block
            filled += len(block)
        array.flush()
    return np.load(path, mmap_mode="r")


def _decoded(path: Path, episodes: list[StoredEpisode], key: str, size: int | None) -> np.ndarray:
    """The frames of one camera in all episodes: uint8 colours or float16 metres."""
    if path.is_file():
        return np.load(path, mmap_mode="r")
    frames = episodes[0].frames(key)
    shape = frames.shape[1:] if size is None else (size, size, *frames.shape[3:])
    dtype = np.dtype(np.uint8 if frames.dtype == np.uint8 else np.float16)
    blocks = (_scaled(episode.frames(key), (shape[0], shape[1])) for episode in episodes)
    return write_array(path, (sum(map(len, episodes)), *shape), dtype, blocks)


def _scaled(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if frames.shape[1:3] == size:
        return frames
    filter_ = Image.Resampling.BICUBIC if frames.dtype == np.uint8 else Image.Resampling.NEAREST
    return np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], filter_)) for frame in frames])


def _camera(dataset: LeRobotDataset, wanted: str | None) -> str:
    cameras = [name for name, feature in dataset.features.items() if feature.is_rgb]
    if wanted is None and len(cameras) == 1:
        return cameras[0]
    if wanted not in cameras:
        raise InputError(
            f"{dataset.root} has the cameras {', '.join(cameras) or 'none'}; choose one, not {wanted}."
        )
    return wanted


def _checked(episode: StoredEpisode) -> StoredEpisode:
    actions = episode.columns.get("action")
    if actions is None or actions.ndim != 2 or actions.shape[1] != 7:
        raise InputError(f"StoredEpisode {episode.index} needs a feature 'action' of 7 numbers a frame.")
    return episode


def _fingerprint(dataset: LeRobotDataset) -> str:
    """Changes when any file of the dataset does."""
    parts = [
        f"{path.relative_to(dataset.root)} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for folder in ("meta", "data", "videos")
        for path in sorted((dataset.root / folder).rglob("*"))
        if path.is_file()
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
