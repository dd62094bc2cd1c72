"""One sample: what each camera saw at a step, augmented, how the arm stood, and the actions from there on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spatialvla.data.augmentation import Augmentation, Views
from spatialvla.data.episodes import Episode, EpisodeSource, EpisodeView, OnBad, action_chunks, planned_steps
from spatialvla.data.needed_parts import unplaced, without_sensor
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import View, fill_holes
from spatialvla.processor import Processor


@dataclass(frozen=True)
class ReadOptions:
    """How samples are read.

    augmentation: of the images. depth: whether the depth sensor is read, too.
    on_bad: whether a damaged sample is an error, or the next draw of the same dataset stands in for it.
    other_sources, other_share: the same datasets seen in another way, and the share of the draws that see them so.
    extrinsics: whether the cameras' places are read, too.
    cameras: names of the cameras to read beside the first, as far as the datasets have them. state: whether the arm's
    state is read. camera_dropout, state_dropout: probabilities that one of a sample's cameras, or its state, is left
    out as if the dataset did not have it; one camera always stays.
    at_once: samples that each process reads at a time, for storage that answers late.
    """

    augmentation: Augmentation
    depth: bool = False
    on_bad: OnBad = "raise"
    other_sources: tuple[EpisodeSource, ...] = ()
    other_share: float = 0.0
    extrinsics: bool = False
    cameras: tuple[str, ...] = ()
    state: bool = False
    camera_dropout: float = 0.0
    state_dropout: float = 0.0
    at_once: int = 1


@dataclass(frozen=True)
class Sample:
    """One step of an episode.

    views: of the cameras by name, those that there are. state: (S,) or None.
    actions: (chunk, 7) from this step on, in the dataset's units. planned: how many of them are one plan, see
    `planned_steps`. replaced: why damaged ones do not stand here.
    """

    views: Mapping[str, View]
    state: np.ndarray | None
    prompt: str
    actions: np.ndarray
    planned: int
    episode: int
    step: int
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class SampleReader:
    """Reads one step of an episode of the dataset `key`. rng: what augmentation draws from."""

    processor: Processor
    options: ReadOptions
    key: str
    step: int
    rng: np.random.Generator

    def sample(
        self, episode: Episode, index: int, missing_instruction: str, replaced: tuple[str, ...]
    ) -> Sample:
        """The sample of the episode with this index. missing_instruction: what to say where it does not.

        Raises CheckpointError, naming the file, where it is damaged, and InputError where the dataset lacks what is
        asked for.
        """
        step, chunk = self.step, self.processor.action_chunk_size
        # The first one is drawn first: so it looks the same however many others there are.
        seen: dict[str, EpisodeView] = {
            self.processor.camera_names[0]: episode,
            **{
                name: episode.other_views[name]
                for name in self.options.cameras
                if name in episode.other_views
            },
        }
        state = episode.state[step] if self.options.state and episode.state is not None else None
        return Sample(
            views={name: self._view(seen[name], name) for name in self._kept(tuple(seen))},
            state=None if self._drops(self.options.state_dropout) else state,
            prompt=self.processor.prompt(episode.instruction_at(step) or missing_instruction),
            actions=action_chunks(episode.actions, np.array([step]), chunk)[0],
            planned=int(planned_steps(episode, np.array([step]), chunk)[0]),
            episode=index,
            step=step,
            replaced=replaced,
        )

    def _kept(self, cameras: Sequence[str]) -> list[str]:
        """Those that dropout leaves."""
        kept = [name for name in cameras if not self._drops(self.options.camera_dropout)]
        return kept or [cameras[int(self.rng.integers(len(cameras)))]]

    def _drops(self, probability: float) -> bool:
        return probability > 0 and bool(self.rng.random() < probability)

    def _view(self, seen: EpisodeView, name: str) -> View:
        """What the camera of this name saw, augmented: a crop moves K and leaves the camera where it is."""
        image = seen.images([self.step])
        camera = seen.camera or self.processor.camera(self.key, name)
        views = self.options.augmentation(
            Views(
                image,
                camera.scaled_to(*image.shape[1:3])[None],
                self._depth(seen, name, image.shape[1:3]),
            ),
            self.processor.image_size,
            self.rng,
        )
        depth = None if views.depth is None else views.depth[0]
        return View(views.images[0], views.intrinsics[0], depth, self._extrinsics(seen, name))

    def _depth(self, seen: EpisodeView, name: str, size: tuple[int, ...]) -> np.ndarray | None:
        """(1, H, W) of the picture's `size`: a sensor of another one sees the same, in other pixels.

        Where another camera than the first has none, the model estimates it.
        """
        if not self.options.depth:
            return None
        readings = seen.depth([self.step])
        if readings is None or not readings.any():
            if not self._is_first(name):
                return None
            if readings is None:
                raise InputError(without_sensor(self.key))
            raise CheckpointError(
                f"{self.key} has no depth at all at step {self.step} of an episode, 0 everywhere; leave such samples "
                "out (--on-bad skip), or train with estimated depth."
            )
        rows, columns = (
            (np.arange(wanted) + 0.5) * stored // wanted
            for wanted, stored in zip(size, readings.shape[1:], strict=True)
        )
        return fill_holes(readings[0][np.ix_(rows.astype(int), columns.astype(int))])[None]

    def _extrinsics(self, seen: EpisodeView, name: str) -> np.ndarray | None:
        """As the images are, however much of them a crop keeps."""
        if not self.options.extrinsics:
            return None
        if seen.extrinsics is None:
            raise InputError(unplaced(self.key, name, self._is_first(name)))
        return np.asarray(seen.extrinsics[self.step])

    def _is_first(self, name: str) -> bool:
        return name == self.processor.camera_names[0]
